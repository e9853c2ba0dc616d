"""What the commands print: JSON, hits for people, tables, errors, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from m3search.errors import M3Error

if TYPE_CHECKING:
    from rich.text import Text

    from m3search.explain import Explanation
    from m3search.records import Hit
    from m3search.snippet import Snippet

INDENT = 4
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
"""what unigram vocabularies put before a piece that begins a word"""


def print_json(value: Any) -> None:
    """One line of JSON on stdout; characters stand as they are, in any script."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def print_error(error: M3Error | str) -> None:
    """`error: ...` on stderr."""
    typer.secho("error:", fg="red", bold=True, nl=False, err=True)
    typer.echo(f" {error}", err=True)


def print_note(text: str) -> None:
    """A line for people on stderr."""
    typer.echo(text, err=True)


@contextmanager
def progress_bar(
    unit: str, total: int | None = None, *, what: str | None = None
) -> Iterator[Callable[[int], None]]:
    """A callback that counts things done: a bar with rate and time left where stderr is seen."""
    from tqdm import tqdm

    with tqdm(
        total=total,
        unit=f" {unit}",
        desc=what,
        disable=None,
        file=sys.stderr,
        dynamic_ncols=True,
        smoothing=0.1,
        leave=False,
    ) as bar:
        yield bar.update


def print_hit(hit: Hit, snippet: Snippet, explanation: Explanation | None = None) -> None:
    """Rank, score, the three scores and id on one line; title, snippet, explanation below."""
    from rich.text import Text

    from m3search.snippet import printable

    modes = "  ".join(f"{mode} {score:.3f}" for mode, score in hit.scores.items())
    _print_line(
        Text.assemble(
            (f"{hit.rank:>{INDENT - 1}} ", "bold"),
            (f"{hit.score:.4f}", "bold green"),
            "  ",
            (modes, "dim"),
            "  ",
            (printable(hit.document.id), "cyan"),
        )
    )
    if title := printable(hit.document.title):
        _print_line(Text(title, "bold"), indent=INDENT)
    if snippet.pieces:
        _print_line(_marked(snippet), indent=INDENT)
    for line in () if explanation is None else _explained(explanation):
        _print_line(line, indent=INDENT)
    typer.echo()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns apart by two spaces, the first to the left and the others to the right."""
    from rich.cells import cell_len

    lines = [header, *rows]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        first, *others = [gap + cell for cell, gap in zip(line, gaps, strict=True)]
        typer.echo("  ".join([first.strip() + gaps[0], *others]).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """Names and values, the values under each other."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        typer.echo(f"{name:<{width}}  {value}")


def readable_bytes(count: int) -> str:
    """A size for people: 512 B, 1.5 kB, 2.0 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _marked(snippet: Snippet) -> Text:
    from rich.text import Text

    if not sys.stdout.isatty():
        return Text(snippet.mark())
    return Text.assemble(*((text, "bold yellow" if hit else "") for text, hit in snippet.pieces))


def _explained(explanation: Explanation) -> Iterator[Text]:
    """Two lines; pieces of words stand as the vocabulary has them, but for the mark of a start."""
    from rich.text import Text

    terms = " · ".join(
        f"{_piece(m.term)} {m.query_weight:.3f}×{m.document_weight:.3f}={m.product:.4f}"
        for m in explanation.terms
    )
    yield Text.assemble(("sparse  ", "magenta"), terms or "no term in common")
    tokens = " · ".join(
        f"{_piece(m.query)}→{_piece(m.document)} {m.similarity:.2f}" for m in explanation.tokens
    )
    yield Text.assemble(("multi   ", "magenta"), tokens or "no vectors")


def _piece(piece: str) -> str:
    """As people read it, without the mark of a word's start unless it is all that can be seen.

    A piece of which nothing can be seen is quoted and escaped, and ? is one that is not known.
    """
    from m3search.snippet import printable

    shown = printable(piece)
    for name in (shown.removeprefix(WORD_START), shown):
        if any(map(str.isprintable, name)):
            return name
    return repr(piece) if piece else "?"


def _print_line(text: Text, indent: int = 0) -> None:
    """Wrapped to a terminal with wide characters counted as two; unbroken to a file or pipe."""
    from rich.console import Console
    from rich.padding import Padding

    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(Padding(text, (0, 0, 0, indent)))
    else:
        typer.echo(" " * indent + text.plain)
