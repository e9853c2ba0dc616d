"""The program as a whole: its commands, and how it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from m3search import __version__
from m3search.cli.changing import compact_index, delete_documents
from m3search.cli.comparing import compare_reports
from m3search.cli.ending import ending_well
from m3search.cli.evaluating import evaluate_runs
from m3search.cli.indexing import build_index
from m3search.cli.inspecting import show_info
from m3search.cli.mining import mine_negatives
from m3search.cli.querying import query_index
from m3search.cli.training import train_model
from m3search.cli.tuning import tune_weights


class Commands(TyperGroup):
    """The commands in the order of their use, each ending well."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was asked for."""
        with ending_well():
            return super().invoke(ctx)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"m3search {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="m3search",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: m3search index corpus.jsonl, then: m3search query 'some words'",
)


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Hybrid search: one model, three ways to match (dense, sparse, multi), one index."""


def _add(name: str, function: Any, example: str) -> None:
    app.command(name, epilog=f"Example: {example}", rich_help_panel=None)(function)


_add("index", build_index, "m3search index corpus.jsonl --index indexes/news")
_add("query", query_index, "m3search query 'what is late interaction?' -k 5 --explain")
_add("delete", delete_documents, "m3search delete doc7 doc9 --index indexes/news")
_add("compact", compact_index, "m3search compact --index indexes/news")
_add("info", show_info, "m3search info indexes/news --verify")
_add("eval", evaluate_runs, "m3search eval eval/suites/dev.toml --data beir --out eval/reports/dev")
_add(
    "compare",
    compare_reports,
    "m3search compare eval/reports/old eval/reports/new --data beir",
)
_add(
    "tune",
    tune_weights,
    "m3search tune eval/suites/dev.toml --from-scores eval/reports/dev",
)
_add("mine", mine_negatives, "m3search mine pairs.jsonl --corpus corpus.jsonl --out mined.jsonl")
_add("train", train_model, "m3search train trainer/recipes/mini.toml --out checkpoints/mini")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line, by default on the process's own arguments, and exits."""
    # before torch starts its threads: those that wait sleep. Spinning ones take the processor from
    # the one they wait for; with another program on one of two cores they encoded a fifth as fast
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN compiles kernels for each shape of a matrix; batches of text have more shapes than the
    # thousand it remembers by default
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    for name, how in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started us, as in `m3search ... <&-`
            setattr(sys, name, Path(os.devnull).open(how, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character shows \u...
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    command.main(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="m3search")
