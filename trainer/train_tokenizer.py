"""Train m3-mini's tokenizer: unigram pieces of all languages, weighted by use, kind to English.

    python trainer/train_tokenizer.py DATA --out tokenizer/ --pieces 56000 \\
        --old checkpoints/all-MiniLM-L6-v2

DATA is a folder of training files. Languages get shares of the learned text (trainer/
language_shares.py; --share da=0.02 sets one), those with little text count up to four times. With
--old, the vocabulary that an encoder comes with, its most frequent English words are pieces here,
too, so that they keep their vectors (trainer/swap_vocabulary.py). Texts are read in NFKC and lower
case; what has no piece is spelled in bytes, so no text gives an unknown token.

The folder is one for transformers: tokenizer.json and tokenizer_config.json, with BERT's special
tokens. The report tells how all training texts, and random ones, come out. The same texts,
settings and seed give the same tokenizer.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from language_shares import SHARES
from piece_rules import is_symbol, may_be_piece
from text_splitting import SPACE
from tokenizer_folder import BYTES, SPECIAL, make_tokenizer, write_tokenizer
from tokenizer_report import measure
from tooling import check_new, count, give_report, options, share
from training_texts import read_texts
from unigram import UnigramLearner
from word_weights import choose, count_words, old_words, weigh

from m3search.cli.ending import run_script
from m3search.errors import ConfigError
from m3search.model.checkpoint import load_tokenizer

ENGLISH = "en"
RARE_CHARACTER, RARE_PART = 8e-8, 1.5e-7
"""of the characters learned from: the weight below which a character, or a longer part of words,
is no piece"""


def learn(
    words: Mapping[str, float], required: Iterable[str], size: int, characters: int
) -> list[tuple[str, float]]:
    """`size` pieces with the logarithms of their probabilities, the likeliest first."""
    bare = {word[1] if is_symbol(word) else word: weight for word, weight in words.items()}
    symbols = {word[1] for word in words if is_symbol(word)}
    weights = dict.fromkeys(set().union(*bare), 0.0)
    for word, weight in bare.items():
        for character in word:
            weights[character] += weight
    alphabet = {c for c, weight in weights.items() if weight >= RARE_CHARACTER * characters}
    alphabet.add(SPACE)
    wanted = [word for word in required if alphabet.issuperset(word)]
    if len(alphabet) + len(wanted) > size:
        raise ConfigError(
            "--pieces",
            expected=f"room for {len(alphabet)} characters and {len(wanted)} words of --old",
            found=f"{size} pieces beside special tokens and bytes",
            remedy="Give more --pieces, or fewer --old-words.",
        )
    least = max(3.0, RARE_PART * characters)
    learner = UnigramLearner(
        bare, alphabet, least=least, required=wanted, avoided=(SPACE,), allowed=may_be_piece
    )
    pieces = learner.learn(size)
    texts = [f"{SPACE}{text}" if text in symbols else text for text in pieces.texts]
    return list(zip(texts, pieces.scores.tolist(), strict=True))


def train(
    args: argparse.Namespace, texts: Mapping[str, Sequence[str]], old: Mapping[str, int]
) -> list[tuple[str, float]]:
    """The pieces that the options ask for, special tokens and bytes apart."""
    shares = SHARES | dict(args.share)
    samples = choose(texts, shares, args.characters, args.seed)
    counts = count_words(samples)
    words = weigh(samples, counts)
    required: list[str] = []
    if old:
        factor = samples[ENGLISH].weight if ENGLISH in samples else 0.0
        english = {w: factor * n for w, n in counts.get(ENGLISH, Counter[str]()).items()}
        weights = old_words(sorted(old, key=lambda piece: old[piece]), english)
        required = sorted(weights, key=lambda word: -weights[word])[: args.old_words]
        words |= {w: words.get(w, 0.0) + weights[w] - english.get(w, 0.0) for w in weights}
    size = args.pieces - len(SPECIAL) - len(BYTES)
    reached = sum(s.weight * sum(map(len, s.texts)) for s in samples.values())
    return learn(words, required, size, round(reached))


def by_language(folder: Path) -> dict[str, list[str]]:
    """The texts of the training files."""
    texts: dict[str, list[str]] = {}
    for language, text in read_texts(folder):
        texts.setdefault(language, []).append(text)
    return texts


def language_share(text: str) -> tuple[str, float]:
    """An argument such as da=0.02."""
    language, _, part = text.partition("=")
    if not language or not part:
        raise argparse.ArgumentTypeError(f"{text} is not a language and its share, as in da=0.02")
    return language, share(part)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder of training files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the tokenizer")
    parser.add_argument("--pieces", type=count, required=True, metavar="N", help="ids in all")
    parser.add_argument(
        "--share", type=language_share, nargs="+", default=[], metavar="LANG=X",
        help="parts of the text to learn from, 0 to 1",
    )  # fmt: skip
    parser.add_argument(
        "--characters", type=count, default=100_000_000, metavar="N",
        help="to learn from, repetitions included; default 100000000",
    )  # fmt: skip
    parser.add_argument("--old", type=Path, metavar="DIR", help="an English encoder")
    parser.add_argument(
        "--old-words", type=count, default=14_000, metavar="N",
        help="of its words to have as pieces; default 14000",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the choice of texts")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options, trains, writes and reports."""
    args = read_options(arguments)
    started = time.perf_counter()
    check_new(args.out)
    old = None if args.old is None else load_tokenizer(args.old)
    texts = by_language(args.data)
    tokenizer = make_tokenizer(train(args, texts, old.get_vocab() if old else {}))
    write_tokenizer(args.out, tokenizer)
    report = {
        "tokenizer": str(args.out),
        "seconds": round(time.perf_counter() - started, 1),
        **measure(tokenizer, texts, old, seed=args.seed),
    }
    give_report(report, args.report)


if __name__ == "__main__":
    run_script(main)
