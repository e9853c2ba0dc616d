"""Make one checkpoint of several that come from one start: the mean of their weights.

Encoders trained apart from one encoder, with other data, orders or lengths of training, lie near
enough to each other for their mean to be one as well, and a better one than each (model soups,
Wortsman et al. 2022, arXiv 2203.05482). It costs nothing when it is used.

Their multi heads do not lie near each other: scores stay as they are when all token vectors are
turned together, so each training ends in directions of its own. Each head is turned to the first
one before the mean is taken (orthogonal Procrustes problem, Schoenemann 1966). The mean is written
in half precision. Of one checkpoint it makes one that is searched in another way.

    python trainer/average_checkpoints.py checkpoints/a checkpoints/b --out checkpoints/mean
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from tooling import check_new, give_report, options, share
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from m3search.cli.ending import run_script
from m3search.errors import ConfigError
from m3search.model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from m3search.model.fingerprints import remembered_fingerprint
from m3search.model.modeling import M3Model
from m3search.records import WordTerms

FREE = ("dropout", "dropout_prob", "dtype", "transformers_version", "_name_or_path")
"""ends of the names of settings that may differ"""
SAMPLE = "İstanbul’da ΆΛΦΑ naïve CAFÉ ﬁve ٣٤ 中文検索 ไทย नमस्ते كتاب\u200bة Straße"


class Loaded(NamedTuple):
    """A checkpoint that is averaged."""

    folder: Path
    model: M3Model
    tokenizer: PreTrainedTokenizerFast
    info: CheckpointInfo


def average(
    folders: Sequence[Path],
    shares: Sequence[float],
    fusion_weights: tuple[float, float, float] | None = None,
    word_terms: WordTerms | None = None,
    idf: bool | None = None,
) -> Loaded:
    """The mean of checkpoints, with the tokenizer of the first.

    shares: how much each counts, above 0; their sum does not matter. fusion_weights, word_terms,
    idf: how the mean is searched with; by default as the first. ConfigError where the checkpoints
    do not go together.
    """
    loaded = [Loaded(folder, *load_checkpoint(folder)) for folder in folders]
    first = loaded[0]
    for other in loaded[1:]:
        check_alike(first, other)
        turn_token_vectors(other.model, first.model)
    states = [each.model.state_dict() for each in loaded]
    parts = [each / sum(shares) for each in shares]
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            pairs = zip(parts, states, strict=True)
            tensor.copy_(torch.stack([part * state[name] for part, state in pairs]).sum(dim=0))
    info = CheckpointInfo(
        first.info.pooling,
        min(each.info.max_length for each in loaded),
        training={"mean_of": [origin(*each) for each in zip(loaded, parts, strict=True)]},
        fusion_weights=fusion_weights or first.info.fusion_weights,
        word_terms=first.info.word_terms if word_terms is None else word_terms,
        idf=first.info.idf if idf is None else idf,
    )
    return first._replace(info=info)


def check_alike(first: Loaded, other: Loaded) -> None:
    """ConfigError unless the weights of both mean the same things."""
    for what, wanted, found in (
        ("vocabulary", first.tokenizer.get_vocab(), other.tokenizer.get_vocab()),
        ("tokens of a sample", tokens(first), tokens(other)),
        ("configuration", configuration(first.model), configuration(other.model)),
        ("shapes of weights", shapes(first.model), shapes(other.model)),
        ("pooling", first.info.pooling, other.info.pooling),
    ):
        if wanted != found:
            raise ConfigError(
                str(other.folder),
                expected=f"the {what} of {first.folder}",
                found=difference(wanted, found),
                remedy="Average checkpoints that were trained from one start.",
            )


def difference(wanted: object, found: object) -> str:
    """What is found in place of what is wanted; of lists and mappings, where they differ first."""
    if isinstance(wanted, list) and isinstance(found, list):
        wanted, found = dict(enumerate(wanted)), dict(enumerate(found))
    if not (isinstance(wanted, dict) and isinstance(found, dict)):
        return f"{found}, not {wanted}"
    for key in {**wanted, **found}:
        one, other = (each.get(key, "nothing") for each in (wanted, found))
        if one != other:
            return f"{key!r} as {other}, not {one}"
    raise AssertionError("both are equal")


def tokens(loaded: Loaded) -> list[str]:
    """Those of a text that shows how a tokenizer normalises, with the special ones."""
    return list(loaded.tokenizer(SAMPLE).tokens())


def configuration(model: M3Model) -> dict[str, Any]:
    """That of the encoder, without what a training or a writing may change."""
    settings = model.backbone.config.to_dict()
    return {key: value for key, value in settings.items() if not key.endswith(FREE)}


def shapes(model: M3Model) -> dict[str, torch.Size]:
    """Of all weights, by name."""
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@torch.no_grad()
def turn_token_vectors(model: M3Model, toward: M3Model) -> None:
    """Turns the multi head so that it is as near as can be to another's; no score changes.

    Of all rotations R, reflections included, the one with the least |R W - W'| of the weights:
    U V^T of the singular value decomposition W' W^T = U S V^T.
    """
    head, other = model.colbert_linear, toward.colbert_linear
    u, _, vt = torch.linalg.svd(other.weight.double() @ head.weight.double().T)
    rotation = u @ vt
    head.weight.copy_(turned(rotation, head.weight))
    head.bias.copy_(turned(rotation, head.bias))


def turned(rotation: Tensor, vectors: Tensor) -> Tensor:
    """rotation (n, n) times vectors, (n, m) or (n,)."""
    return (rotation @ vectors.double()).to(vectors.dtype)


def origin(loaded: Loaded, part: float) -> dict[str, Any]:
    """What the mean says of one that is `part` of it."""
    known = {"fingerprint": remembered_fingerprint(loaded.folder), "step": loaded.info.step}
    return {**loaded.info.training, "share": part, **known}


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the mean")
    parser.add_argument(
        "--shares",
        type=share,
        nargs="+",
        metavar="S",
        help="above 0 and up to 1, how much each counts; by default alike",
    )
    parser.add_argument(
        "--fusion-weights", type=float, nargs=3, metavar=("W1", "W2", "W3"),
        help="of dense, sparse and multi; by default those of the first",
    )  # fmt: skip
    parser.add_argument(
        "--word-terms",
        choices=get_args(WordTerms),
        help="terms beside the pieces, as in a recipe; by default those of the first",
    )
    parser.add_argument(
        "--idf",
        action=argparse.BooleanOptionalAction,
        help="whether searches weigh terms by their rarity; by default as with the first",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options, averages and reports."""
    args = read_options(arguments)
    check_new(args.out)
    count = len(args.checkpoints)
    shares = args.shares or [1.0] * count
    if len(shares) != count:
        raise ConfigError(
            "--shares",
            expected=f"one for each of the {count} checkpoints",
            found=str(len(shares)),
            remedy="Name those whose mean is wanted, or leave --shares out.",
        )
    weights = tuple(args.fusion_weights) if args.fusion_weights else None
    if weights and not (all(math.isfinite(w) and w >= 0 for w in weights) and any(weights)):
        raise ConfigError(
            "--fusion-weights",
            expected="three numbers from 0 up, not all 0",
            found=", ".join(map(str, weights)),
            remedy="Give those of dense, sparse and multi.",
        )
    mean = average(args.checkpoints, shares, weights, args.word_terms, args.idf)
    save_checkpoint(args.out, mean.model, mean.tokenizer, mean.info, dtype=torch.float16)
    report = {
        "checkpoint": str(args.out),
        "mean_of": list(map(str, args.checkpoints)),
        "shares": shares,
    }
    give_report(report, args.report)


if __name__ == "__main__":
    run_script(main)
