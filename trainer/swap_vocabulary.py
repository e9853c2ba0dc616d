"""Give an English encoder another vocabulary, and small embeddings for it, before any training.

    python trainer/swap_vocabulary.py checkpoints/all-MiniLM-L6-v2 tokenizer/ --out swapped/ \\
        --embedding-size 192 --texts DATA/*.en.jsonl.gz --lexicons DATA \\
        --parallel TRANSLATIONS/*-en.jsonl.gz

The layers of the old encoder (BERT) stay as they are. Every new piece is given a vector among the
old ones: that of the old piece of the same text, else of its English translation, else of its parts
(trainer/piece_vectors.py). Then the embeddings are factorised: those of ELECTRA, an architecture of
transformers, have a width of their own (trainer/factorised_embeddings.py). English texts say how
often words are met.

The folder is an encoder without heads, as a training starts from. Position tables keep their
length; start.max_length of a recipe extends them. The report tells where the vectors came from,
what factorising cost, and how near the sentence vectors of English texts are to the old ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from electra_model import (
    check_bert,
    check_tokenizer,
    count_parameters,
    make_electra,
    wide_embeddings,
    write_encoder,
)
from factorised_embeddings import Narrow, Occurrences, Wide, factorise, refine, relative_error
from piece_vectors import OldWords, PieceVectors, place_pieces
from tooling import check_new, count, give_report, options, read_lines, texts_of
from training_texts import read_parallel
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from word_translations import (
    LONGEST,
    English,
    Sides,
    Translations,
    english_pieces,
    from_lexicons,
    from_parallel,
    join,
    lexicon_files,
    merge,
    tokenise,
)

from m3search.cli.ending import run_script
from m3search.errors import ConfigError, DataError
from m3search.model.checkpoint import load_backbone, load_tokenizer
from m3search.model.tokenization import Ids, Tokenization, pad

STEPS, RATE = 600, 2e-3
"""of the refinement, by default, and its learning rate"""
TEXTS, COMPARED = 20_000, 500
"""English texts to count in, and those to compare sentence vectors of, which are not counted"""
BATCH = 32


class Old(NamedTuple):
    """The encoder that is given another vocabulary."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    words: OldWords

    @property
    def length(self) -> int:
        """How many positions it has."""
        return int(self.model.config.max_position_embeddings)


def load_old(folder: Path) -> Old:
    """The encoder of a folder."""
    model, tokenizer = load_backbone(folder), load_tokenizer(folder)
    check_bert(folder, model)
    words = cast(torch.nn.Embedding, model.get_input_embeddings())
    return Old(folder, model, tokenizer, OldWords(tokenizer, words.weight.detach().numpy()))


def read_english(files: Iterable[Path], seed: int) -> list[str]:
    """Some texts of the files, each once, in random order."""
    found: dict[str, None] = {}
    for path in files:
        for line in read_lines(path):
            found |= dict.fromkeys(text for _, text in texts_of(path, line) if text.strip())
    texts = list(found)
    if len(texts) < 2:
        raise DataError(
            ", ".join(map(str, files)),
            expected="two English texts or more",
            found=str(len(texts)),
            remedy="Give training files in English (--texts).",
        )
    order = np.random.default_rng(seed).permutation(len(texts))[: TEXTS + COMPARED]
    return [texts[place] for place in order]


def find_translations(
    args: argparse.Namespace, old: Old, new: PreTrainedTokenizerFast, texts: Sequence[str]
) -> dict[str, Translations]:
    """The translations of each kind that the options ask for; `texts` are English.

    With parallel texts, which tell what other languages write, none of a piece that is English.
    """
    found: dict[str, Translations] = {}
    if args.lexicons is not None:
        english = join(plain_ids(old.tokenizer, texts))
        counts = np.bincount(english, minlength=len(old.words.vectors))
        phrases = English(old.words, counts / max(len(english), 1))
        found["lexicons"] = from_lexicons(lexicon_files(args.lexicons), new.get_vocab(), phrases)
    if args.parallel:
        sides = parallel_sides(args.parallel, old, new)
        found["parallel"] = from_parallel(sides)
        own = english_pieces(sides, join(plain_ids(new, texts)), len(new))
        for kind, of_kind in found.items():
            found[kind] = {n: weights for n, weights in of_kind.items() if not own[n]}
    return found


def parallel_sides(
    files: Sequence[Path], old: Old, new: PreTrainedTokenizerFast
) -> dict[str, Sides]:
    """The tokens of the parallel texts of some files, by language."""
    pairs = list(read_parallel(files))
    foreign = plain_ids(new, [pair.text for pair in pairs])
    english = plain_ids(old.tokenizer, [pair.english for pair in pairs])
    sides = tokenise(pairs, foreign, english)
    if not sides:
        raise DataError(
            ", ".join(map(str, files)),
            expected=f"texts with their English translations, of 1 to {LONGEST} tokens each",
            found=f"none in {len(pairs)} pairs",
            remedy="Give files of translations into English, or leave --parallel out.",
        )
    return sides


def plain_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Ids]:
    """The ids of texts without special tokens."""
    encoded = Tokenization(tokenizer).encode(texts, 512).ids
    return [ids[1:-1] for ids in encoded]


def occurrences(texts: Sequence[Ids], wide: Wide, seed: int) -> Occurrences:
    """The tokens of texts at their positions."""
    positions = np.concatenate([np.arange(len(ids)) for ids in texts])
    words = np.concatenate(texts)
    return Occurrences(torch.from_numpy(words), torch.from_numpy(positions), wide, seed)


def sentence_vectors(
    model: Any, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int
) -> torch.Tensor:
    """(n, hidden) unit means of the last states."""
    ids = Tokenization(tokenizer).encode(texts, length).ids
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(ids), BATCH):
            padded, mask = map(torch.from_numpy, pad(ids[start : start + BATCH], 0))
            states = model(input_ids=padded, attention_mask=mask.long())[0]
            means = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            vectors.append(torch.nn.functional.normalize(means, dim=-1))
    return torch.cat(vectors)


class Errors:
    """How far narrow embeddings are from wide ones: on English pieces of both, and everywhere."""

    def __init__(self, seen: Occurrences, placed: PieceVectors) -> None:
        words, positions = zip(*seen.samples(everywhere=0.0), strict=True)
        equal = torch.tensor([source == "equal" for source in placed.sources])
        same = equal[torch.cat(words)]
        self._english = torch.cat(words)[same], torch.cat(positions)[same]
        words, positions = zip(*seen.samples(everywhere=1.0), strict=True)
        self._all = torch.cat(words), torch.cat(positions)

    def of(self, narrow: Narrow, wide: Wide) -> dict[str, float]:
        """Relative errors."""
        return {
            "english": round(relative_error(narrow, wide, *self._english), 4),
            "all_pieces": round(relative_error(narrow, wide, *self._all), 4),
        }


def make_narrow(
    args: argparse.Namespace, placed: PieceVectors, wide: Wide, seen: Occurrences
) -> tuple[Narrow, dict[str, dict[str, float]]]:
    """Narrow embeddings in place of wide ones, and their errors before and after refining."""
    torch.manual_seed(args.seed)
    narrow = factorise(wide, args.embedding_size, seen)
    errors = Errors(seen, placed)
    before = errors.of(narrow, wide)
    refine(narrow, wide, seen, args.steps, RATE)
    return narrow, {"factorised": before, "refined": errors.of(narrow, wide)}


def compare(
    old: Old, electra: PreTrainedModel, new: PreTrainedTokenizerFast, texts: Sequence[str]
) -> dict[str, float]:
    """Cosines of the sentence vectors of both encoders."""
    before = sentence_vectors(old.model, old.tokenizer, texts, old.length)
    cosines = (before * sentence_vectors(electra, new, texts, old.length)).sum(dim=1)
    return {
        "texts": len(texts),
        "mean": round(float(cosines.mean()), 4),
        "lowest": round(float(cosines.min()), 4),
    }


def swap(args: argparse.Namespace) -> dict[str, Any]:
    """Makes and writes the encoder; the report."""
    check_tokenizer(args.tokenizer)
    old, new = load_old(args.old), load_tokenizer(args.tokenizer)
    check_size(args.embedding_size, old)
    texts = read_english(args.texts, args.seed)
    held_out = min(COMPARED, len(texts) // 2)
    apart, counted = texts[:held_out], texts[held_out:]
    found = find_translations(args, old, new, counted)
    pieces = [str(piece) for piece in new.convert_ids_to_tokens(list(range(len(new))))]
    placed = place_pieces(pieces, old.words, merge(found.values()), args.seed)
    wide = wide_embeddings(old.model, torch.from_numpy(placed.vectors))
    ids = Tokenization(new).encode(counted, old.length).ids
    narrow, errors = make_narrow(args, placed, wide, occurrences(ids, wide, args.seed))
    electra = make_electra(old.model, narrow, int(new.pad_token_id or 0))
    write_encoder(args.out, electra, args.tokenizer)
    return {
        "pieces": placed.counts(),
        "translated": {kind: len(translations) for kind, translations in found.items()},
        "relative_error": errors,
        "parameters": count_parameters(electra),
        "english_cosine": compare(old, electra, new, apart),
    }


def check_size(size: int, old: Old) -> None:
    """ConfigError unless the embeddings are narrower than the layers."""
    hidden = int(old.model.config.hidden_size)
    if not 2 <= size < hidden:
        raise ConfigError(
            "--embedding-size",
            expected=f"2 to {hidden - 1}, below the hidden size of {old.folder}",
            found=str(size),
            remedy="Choose a smaller size, such as half the hidden size.",
        )


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("old", type=Path, metavar="OLD", help="an English BERT encoder")
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER", help="the new one's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the encoder")
    parser.add_argument(
        "--embedding-size", type=count, required=True, metavar="E", help="below the hidden size"
    )
    parser.add_argument(
        "--texts", type=Path, nargs="+", required=True, metavar="FILE",
        help="English training files",
    )  # fmt: skip
    parser.add_argument(
        "--lexicons", type=Path, metavar="DIR", help="a folder of word lists, lexicon.LANG-en.tsv"
    )
    parser.add_argument(
        "--parallel", type=Path, nargs="+", default=[], metavar="FILE",
        help="training files of texts with their English translations",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=count, default=STEPS, metavar="N", help=f"of refinement; default {STEPS}"
    )
    parser.add_argument("--seed", type=int, default=42, metavar="N")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options, swaps the vocabulary and reports."""
    args = read_options(arguments)
    started = time.perf_counter()
    check_new(args.out)
    report: Mapping[str, Any] = swap(args)
    seconds = round(time.perf_counter() - started, 1)
    give_report({"encoder": str(args.out), "seconds": seconds, **report}, args.report)


if __name__ == "__main__":
    run_script(main)
