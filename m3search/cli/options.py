"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_INDEX = Path("indexes/default")

IndexOption = Annotated[
    Path, typer.Option("--index", metavar="DIR", help="The folder of the index.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A checkpoint's folder or hub name; by default the embedded m3-mini.",
    ),
]
MaxLengthOption = Annotated[
    int | None,
    typer.Option(
        "--max-length", metavar="N", help="Tokens per text; by default all that the model reads."
    ),
]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="torch|openvino",
        help="What computes documents; openvino, on the CPU, needs the extra m3search[openvino].",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="W1,W2,W3", help="Weights of dense, sparse and multi; by default the model's own."
    ),
]
DepthOption = Annotated[
    int,
    typer.Option(
        metavar="N", help="Candidates that dense and sparse give each, never fewer than -k."
    ),
]


SetsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Folders of sets (corpus.jsonl, queries.jsonl, qrels/test.tsv), suites in TOML, the "
        "paper's evaluations (miracl, mldr, mkqa, narrativeqa), or data sets: beir/NAME, "
        "miracl/LANG, mldr/LANG, mkqa/LANG, ir:ID.",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the paths in a suite start, else at the suite; where data sets are kept.",
    ),
]
LanguagesOption = Annotated[
    str | None,
    typer.Option("--lang", metavar="NAMES", help="Languages of a preset, as yo,sw; else all."),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting of a suite, or give one to a folder: split=dev. Repeatable.",
    ),
]


def parse_weights(value: str | None) -> tuple[float, ...] | None:
    """'1,0.3,1' as numbers; whether they are good weights is the searcher's to say."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"expected numbers such as 1,0.3,1, found {value!r}", param_hint="--weights"
        ) from error


def split_names(value: str) -> list[str]:
    """'dense, sparse' as its names; commas in brackets, as in SetF(beta=0.5,rel=2), part none."""
    parts = re.split(r",(?![^(]*\))", value)
    return [part.strip() for part in parts if part.strip()]
