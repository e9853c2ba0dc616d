"""Pages of reports made up, and a reader of them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from m3search.evaluation import Experiment, SetResult
from m3search.evaluation.charts import Figures
from m3search.evaluation.figures import DEPTHS, SetFigures
from m3search.evaluation.html import to_html


def page_of(*sets: SetResult, figures: Figures | None = None, notes: tuple[str, ...] = ()) -> Page:
    experiment = Experiment(sets, {"command": "m3search eval <a> & b"})
    if figures is None:
        figures = {
            each.name: SetFigures({row: (0.5,) * len(DEPTHS) for row in each.report.means}, None)
            for each in sets
        }
    return Page(to_html(experiment, figures, notes))


class Page:
    """What is on a page, which must be well-formed XML."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = ElementTree.fromstring(text)

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    @property
    def ids(self) -> list[str]:
        return [each.attrib["id"] for each in self.root.iter() if "id" in each.attrib]

    @property
    def words(self) -> str:
        """All that is shown as text."""
        return " ".join(self.root.itertext())

    def plot(self, key: str) -> ElementTree.Element | None:
        found = f"{key}-title {key}-description"
        return self.root.find(f".//svg[@aria-labelledby='{found}']")

    def marks(self, key: str) -> dict[str, str]:
        """What the marks of a plot say: all before the last colon -> what stands behind it."""
        plot = self.plot(key)
        assert plot is not None, key
        said = [str(each.text) for mark in plot for each in mark.findall("title")]
        return dict(words.rsplit(": ", 1) for words in said)

    def table(self, title: str) -> list[list[str]]:
        """Cells, the names of the columns first."""
        for table in self.root.iter("table"):
            if table.findtext("caption") == title:
                lines = table.iter("tr")
                return [["".join(cell.itertext()) for cell in line] for line in lines]
        raise AssertionError(title)
