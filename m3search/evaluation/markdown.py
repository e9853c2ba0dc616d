"""A table of a report, and how it looks as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m3search.evaluation.measures import markdown_table


@dataclass(frozen=True)
class Table:
    """Lines of cells under a title, in plain text."""

    title: str
    lines: list[list[str]]
    """the names of the columns first"""
    note: str = ""
    code: str = ""
    """the column that holds code"""
    compared: bool = False
    """whether the largest number of a line stands out"""

    def best(self, cells: Sequence[str]) -> set[int]:
        """The columns of a line that hold its largest number, where lines are compared."""
        if not self.compared:
            return set()
        numbers = {column: float(cell) for column, cell in enumerate(cells) if column and cell}
        most = max(numbers.values(), default=0.0)
        return {column for column, number in numbers.items() if number == most}


def markdown(table: Table) -> str:
    """A section with the table, the largest numbers in bold where lines are compared."""
    header, *lines = table.lines
    shown = [header]
    for cells in lines:
        best = table.best(cells)
        shown.append([])
        for column, cell in enumerate(cells):
            escaped = cell.replace("|", "\\|")
            if header[column] == table.code:
                escaped = f"`{escaped}`"
            else:
                escaped = escaped.replace("*", "\\*")
            shown[-1].append(f"**{escaped}**" if column in best else escaped)
    note = table.note.replace("*", "\\*")
    return f"## {table.title}\n\n{markdown_table(shown)}" + (f"\n{note}\n" if note else "")
