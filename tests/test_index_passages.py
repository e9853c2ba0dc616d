"""An index of passages finds documents by their best passage, and changes by whole documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from searching import WordEncoder

from m3search.errors import ArtifactError, ConfigError
from m3search.index import Index
from m3search.plan import Plan
from m3search.records import MODES, Document, Hit, Query
from m3search.search import Searcher
from m3search.stores.passages import FILE

WORDS = [
    "late",
    "vector",
    "term",
    "token",
    "tea",
    "rice",
    "cat",
    "sleep",
    "dense",
    "sparse",
    "text",
    "each",
]


def make_documents(count: int, seed: int = 0) -> list[Document]:
    random = np.random.default_rng(seed)
    return [
        Document(
            f"d{i}",
            " ".join(random.choice(WORDS, size=random.integers(0, 60))),
            "title" if i % 3 == 0 else "",
            {"n": i},
        )
        for i in range(count)
    ]


def build(folder: Path, documents: list[Document], **options: object) -> Index:
    settings = {"chunk": 12, "chunk_overlap": 3, "segment_documents": 9, "multi_codec": "fp16"}
    return Index.build(folder, documents, WordEncoder(), **(settings | options))  # type: ignore[arg-type]


def ask(index: Index, text: str) -> list[Hit]:
    return Searcher(index, WordEncoder()).search(text, 50)


def passages_apart(documents: list[Document]) -> list[Document]:
    """The same passages as documents of their own."""
    cut = WordEncoder().passages
    return [
        Document(f"{d.id}/{number}", d.text[start:end], d.title, d.metadata)
        for d in documents
        for number, (start, end) in enumerate(cut(d.text, 12, 3))
    ]


@pytest.mark.parametrize("modes", [MODES, ("dense", "sparse"), ("multi",), ("sparse",)])
def test_a_document_has_the_score_of_its_best_passage(
    tmp_path: Path, modes: tuple[str, ...]
) -> None:
    documents = make_documents(40)
    index = build(tmp_path / "cut", documents)
    apart = Index.build(
        tmp_path / "apart", passages_apart(documents), WordEncoder(), multi_codec="fp16"
    )
    assert (len(index), index.rows) == (40, len(apart))
    assert index.verify() == []
    searchers = Searcher(index, WordEncoder()), Searcher(apart, WordEncoder())
    for text in ("late tea", "sleep token rice", "each"):
        hits = searchers[0].search(text, k=40, depth=1000, modes=modes)
        every = searchers[1].search(text, k=1000, depth=1000, modes=modes)
        best: dict[str, tuple[float, str, dict[str, float]]] = {}
        for hit in every:
            name = hit.document.id.split("/")[0]
            best.setdefault(name, (hit.score, hit.document.text, dict(hit.scores)))
        assert {hit.document.id for hit in hits} == set(best)
        assert [hit.score for hit in hits] == sorted((s for s, *_ in best.values()), reverse=True)
        for hit in hits:
            score, found, scores = best[hit.document.id]
            assert (hit.score, dict(hit.scores)) == (score, scores)
            assert hit.document in documents  # the whole of it
            assert hit.text == found
            passage = hit.to_json()["passage"]
            assert hit.document.text[passage["start"] : passage["end"]] == found


def test_as_many_documents_are_found_as_are_asked_for(tmp_path: Path) -> None:
    """Though the best passages may all be of one."""
    documents = [Document("long", "tea cup " * 200), *make_documents(30)]
    searcher = Searcher(build(tmp_path, documents), WordEncoder())
    for modes in (("dense",), ("multi",), MODES):
        hits = searcher.search("tea cup " * 6, k=5, depth=5, modes=modes)
        assert hits[0].document.id == "long"
        assert len({hit.document.id for hit in hits}) == len(hits) == 5
    run = searcher.run([Query("q", "tea cup " * 6)], k=8, depth=8)["q"]
    assert len(run) == 8 and next(iter(run)) == "long"


def test_changes_are_of_whole_documents(tmp_path: Path) -> None:
    documents = make_documents(30)
    index = build(tmp_path / "changed", documents)
    changed = [Document("d3", "rice " * 40, "", {"n": 3}), Document("new", "cat")]
    index.add(changed, WordEncoder())
    assert index.delete(["d5", "d9", "d5", "unknown"]) == 2
    left = {d.id: d for d in documents if d.id not in ("d5", "d9", "d3")}
    left |= {d.id: d for d in changed}
    for shrink in (lambda: None, index.compact):
        shrink()
        opened = Index.open(tmp_path / "changed")
        assert opened.verify() == []
        assert len(opened) == len(left)
        rows = opened.rows_of(list(left))
        assert opened.documents(rows) == list(left.values())
        assert opened.rows_of(["d5", "d9"]).tolist() == [-1, -1]
        asked = ("rice tea", "cat sleep")
        fresh = build(tmp_path / f"fresh{opened.rows}", list(left.values()))
        for text in asked:
            ours, theirs = (
                [(h.document.id, h.score, h.passage) for h in ask(i, text)] for i in (opened, fresh)
            )
            assert ours == theirs
    assert opened.rows == fresh.rows == opened.manifest.live_rows


def test_filters_choose_documents(tmp_path: Path) -> None:
    documents = make_documents(30)
    index = build(tmp_path / "all", documents)
    some = build(tmp_path / "some", [d for d in documents if d.metadata["n"] >= 20])
    assert int(np.sum(index.select("n>=20"))) == some.rows  # type: ignore[arg-type]
    searchers = Searcher(index, WordEncoder()), Searcher(some, WordEncoder())
    found = searchers[0].search("tea late", 20, filter="n>=20")
    assert found == searchers[1].search("tea late", 20)


def test_explanation_and_snippet_are_of_the_passage(tmp_path: Path) -> None:
    text = "tea and rice " * 20 + "a lighthouse stands here " + "cats sleep late " * 20
    searcher = Searcher(build(tmp_path, [Document("d", text)], chunk=9), WordEncoder())
    (hit,) = searcher.search("lighthouse", modes=("sparse",))
    assert "lighthouse" in hit.text and len(hit.text) < 80
    assert "**lighthouse**" in searcher.snippet("lighthouse", hit).mark()
    explanation = searcher.explain("lighthouse", hit)
    total = sum(match.product for match in explanation.terms)
    assert total == pytest.approx(hit.scores["sparse"], abs=1e-6)
    assert explanation.tokens[0].document == "lighthouse"


def test_a_build_goes_on_with_the_same_passages_only(tmp_path: Path) -> None:
    documents = make_documents(40)

    def interrupted() -> object:
        yield from documents[:25]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "killed", interrupted())  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="the chunk 12 of the build that was interrupted"):
        build(tmp_path / "killed", documents, chunk=14)
    index = build(tmp_path / "killed", documents)
    whole = build(tmp_path / "whole", documents)
    assert index.report.unchanged > 0
    assert (len(index), index.rows) == (len(whole), whole.rows)
    assert index.documents(index.rows_of([d.id for d in documents])) == documents


@pytest.mark.parametrize(("chunk", "overlap"), [(-1, 0), (10, 5), (10, -1), (0, 1)])
def test_settings_out_of_range(tmp_path: Path, chunk: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="a whole number of tokens from 0 to"):
        build(tmp_path, [], chunk=chunk, chunk_overlap=overlap)


def test_damaged_passages_are_told(tmp_path: Path) -> None:
    index = build(tmp_path, make_documents(5))
    (file,) = tmp_path.rglob(FILE)
    content = bytearray(file.read_bytes())
    content[128] ^= 64  # the head of the first row
    file.write_bytes(content)
    assert any(FILE in damage for damage in index.verify())
    with pytest.raises(ArtifactError, match="heads before their passages"):
        Index.open(tmp_path)


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_candidates_are_what_stands_before_one_document_more(tmp_path: Path, depth: int) -> None:
    """Against lists made by hand, at depths that cut them."""
    documents = make_documents(40, seed=3)
    index = build(tmp_path, documents)
    searcher = Searcher(index, WordEncoder())
    for text in ("late tea", "sleep token rice", "each"):
        query = WordEncoder().encode([text], "query")
        candidates: set[int] = set()
        for mode in ("dense", "sparse"):
            begun: list[int] = []
            for row in index.retrieve(mode, query, index.rows).rows[0].tolist():
                head = int(index.heads([row])[0]) if row >= 0 else -1
                if row < 0 or (head not in begun and len(begun) == depth):
                    break
                begun += [head] * (head not in begun)
                candidates.add(row)
        rows = np.array(sorted(candidates))
        scores = {mode: index.scores(mode, query, rows) for mode in MODES}
        fused = sum(
            weight * scores[mode].astype(float)
            for mode, weight in zip(MODES, (1, 0.3, 1), strict=True)
        )
        best: dict[str, float] = {}
        for name, score in zip(index.ids(rows), fused, strict=True):
            best[name] = max(best.get(name, -9.0), float(score))
        wanted = sorted(best.items(), key=lambda item: -item[1])[:depth]
        hits = searcher.search(text, depth, depth=depth)
        assert [hit.document.id for hit in hits] == [name for name, _ in wanted]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted])


def test_deeper_candidates_rank_as_a_search_of_less_depth(tmp_path: Path) -> None:
    searcher = Searcher(build(tmp_path, make_documents(40, seed=3)), WordEncoder())
    queries = searcher.encode([Query(text, text) for text in ("late tea", "rice", "each cat")])
    for found in searcher.candidates(queries, depth=40):
        for depth in (2, 5, 9):
            plan = Plan.check(5, depth, MODES, None, "exact", "union")
            rows, scores = found.scored.ranked(plan)
            hits = searcher.search(found.query, 5, depth=depth)
            assert scores.tolist() == pytest.approx([hit.score for hit in hits])
            assert searcher.index.ids(rows) == [hit.document.id for hit in hits]


def test_passages_longer_than_the_model_reads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from 0 to 510, which the model reads"):
        build(tmp_path, [], chunk=511)
