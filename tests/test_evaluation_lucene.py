"""BM25 by Lucene, run by Java: scores against a slow loop, bm25s and pyserini; words; traces.

Skipped without the extra `bm25`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from evaluation_fakes import Log, make_set
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_bm25 import slow_bm25

from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.evaluation.bm25 import BM25, Language
from m3search.evaluation.java import PACKAGES
from m3search.evaluation.lucene import ANALYZERS, LuceneBM25
from m3search.records import Document, Query

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason="needs the extra: pip install 'm3search[bm25]'"
)

PLAIN = Language(None, "given")
ENGLISH = Language("en", "given")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("uvwxyz"), max_size=12), min_size=1, max_size=8),
    st.lists(st.sampled_from("uvwxyz?"), max_size=6),
    st.sampled_from([(1.2, 0.75), (0.9, 0.4)]),
)
def test_scores_are_those_of_a_slow_loop(documents, query, settings) -> None:
    k1, b = settings
    corpus = [Document(f"d{row}", " ".join(words)) for row, words in enumerate(documents)]
    found = LuceneBM25(corpus, PLAIN, k1=k1, b=b).run([Query("q", " ".join(query))])["q"]
    counted = {f"d{row}": words for row, words in enumerate(documents) if words}
    known = [word for word in query if word != "?"]
    scores = slow_bm25(list(counted.values()), known, k1, b) if counted else []
    expected = {name: score for name, score in zip(counted, scores, strict=True) if score > 0}
    assert found == pytest.approx(expected, rel=1e-5)
    places = [(-score, int(name[1:])) for name, score in found.items()]
    assert places == sorted(places)


def test_scores_are_those_of_bm25s_where_words_are_the_same() -> None:
    words = ["tea", "rice", "volcano", "glacier", "coffee", "bread", "zero", "guitar"]
    texts = [" ".join(words[(i * j) % 8] for j in range(3, 5 + i % 7)) for i in range(1, 60)]
    corpus = [Document(f"d{row}", text, "title tea") for row, text in enumerate(texts)]
    queries = [Query(word, f"{word} {other}") for word in words for other in ("tea", "none tea")]
    queries = [Query(f"{row}", each.text) for row, each in enumerate(queries)]
    lucene, bm25s = (make(corpus, PLAIN).run(queries, 20) for make in (LuceneBM25, BM25))
    for query, found in lucene.items():
        assert list(found.values()) == pytest.approx(list(bm25s[query].values()), rel=1e-5)


def test_scores_are_those_of_pyserini(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_texts: list[str]
) -> None:
    """Which rounds to four digits, and sets equal scores apart by less than that."""
    corpus = [Document(f"{row:04}", text) for row, text in enumerate(sample_texts)]
    ours = LuceneBM25(corpus, ENGLISH)
    monkeypatch.setenv("OPENAI_API_KEY", "none")  # pyserini makes a client that is never used
    from pyserini.index.lucene import LuceneIndexer
    from pyserini.search.lucene import LuceneSearcher

    indexer = LuceneIndexer(str(tmp_path), threads=1)
    indexer.add_batch_dict([{"id": each.id, "contents": each.text} for each in corpus])
    indexer.close()
    searcher = LuceneSearcher(str(tmp_path))
    searcher.set_bm25(1.2, 0.75)
    texts = [f"{text} -(light) {text[:90]}" for text in sample_texts[:40:8]]
    run = ours.run([Query(text, text) for text in texts], 20)
    for text in texts:
        theirs = {hit.docid: hit.score for hit in searcher.search(text, 20)}
        assert len(theirs) == 20
        assert run[text] == pytest.approx(theirs, abs=2e-4)
        assert list(run[text]) == list(theirs)


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [
        ("en", "The houses of the sailors", "house sailor"),
        ("de", "die Häuser", "Haus"),
        ("sv", "bilarna", "bil"),
        ("el", "οι θάλασσες", "θάλασσα"),
        ("ru", "книги на столе", "книга"),
        ("zh", "检索系统", "索系"),
        ("ja", "東京タワー", "タワー"),
        ("th", "ภาษาไทย", "ภาษา"),
        ("yi", "די הײַזער", "הײַזער"),
        (None, "Ein Haus: 检索系统", "HAUS"),
        (None, "Ein Haus: 检索系统", "检索"),
        (None, "the cat", "the"),
        ("xx", "nul \0 and 𝒳y", "xY"),
        ("en", "nul \0 and 😀", "😀"),
    ],
)
def test_words_of_a_language(language: str | None, text: str, query: str) -> None:
    bm25 = LuceneBM25([Document("d", text), Document("e", "другое")], Language(language, "given"))
    assert list(bm25.run([Query("q", query)])["q"]) == ["d"]


def test_every_analyser_of_the_table_is_there() -> None:
    for code, name in ANALYZERS.items():
        bm25 = LuceneBM25([Document("d", "2020")], Language(code, "given"))
        expected = {name.split(".")[-1]} | ({"the words of bm25s"} if code == "th" else set())
        assert bm25.settings()["analyzer"] in expected
        assert list(bm25.run([Query("q", "2020")])["q"]) == ["d"]


def test_stop_words_are_those_of_the_language_alone() -> None:
    corpus = [Document("d", "the in no")]
    found = [LuceneBM25(corpus, each).run([Query("q", "the no")])["q"] for each in (ENGLISH, PLAIN)]
    assert [list(each) for each in found] == [[], ["d"]]


def test_k_cuts_ties_go_by_place_and_a_query_may_be_long() -> None:
    corpus = [Document(name, "same words", "title") for name in "zyx"]
    bm25 = LuceneBM25(iter(corpus), PLAIN)
    queries = [Query("1", "words"), Query("2", ""), Query("3", "!"), Query("4", "none")]
    long = Query("5", " ".join(f"w{number}" for number in range(3000)) + " title")
    run = bm25.run([*queries, long], k=2)
    assert {name: list(found) for name, found in run.items()} == {
        "1": ["z", "y"], "2": [], "3": [], "4": [], "5": ["z", "y"]
    }  # fmt: skip
    assert LuceneBM25([], PLAIN).run(queries)["1"] == {}


def test_places_stay_where_an_index_has_many_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3search.evaluation.lucene.BUFFER_MB", 0.05)
    texts = [f"word n{number}" for number in range(600)]
    bm25 = LuceneBM25((Document(text, text) for text in texts), PLAIN)
    assert bm25._searcher.getIndexReader().leaves().size() > 3
    found = bm25.run([Query(text, text) for text in texts[::60]], 1)
    assert all(list(ranked) == [name] for name, ranked in found.items())
    assert list(bm25.run([Query("q", "word")], 600)["q"]) == texts


def test_the_folder_goes_with_the_object() -> None:
    def folders() -> set[str]:
        return {each.name for each in Path(tempfile.gettempdir()).glob("m3search-lucene-*")}

    before = folders()
    bm25 = LuceneBM25([Document("d", "one two")], PLAIN)
    assert len(folders() - before) == 1
    assert bm25.run([Query("q", "two")])["q"]
    del bm25
    gc.collect()
    assert folders() <= before


def test_an_evaluation_with_lucene(tmp_path: Path) -> None:
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("bm25",), bm25="lucene", language="en")
    [result] = evaluate_sets([wanted], Log().encoders).sets
    assert result.report.means["bm25"]["R@100"] == 1.0
    bm25 = result.details["bm25"]
    assert bm25.pop("implementation").startswith("Lucene ")
    assert bm25 == {
        "variant": "lucene", "k1": 1.2, "b": 0.75, "language": "en", "language_origin": "given",
        "analyzer": "DefaultEnglishAnalyzer",
    }  # fmt: skip


def test_the_command_prints_nothing_of_java(tmp_path: Path) -> None:
    lines = [{"query": f"q{n} bread", "pos": [f"bread number q{n}"]} for n in range(4)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, temporary = tmp_path / "out.jsonl", tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "m3search", "mine", str(pairs), "--out", str(out), "--json"]
    options = ["--mode", "bm25", "--bm25", "lucene", "--ranks", "0-9"]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert done.stderr == ""
    assert list(temporary.iterdir()) == []
    assert json.loads(done.stdout)["negatives"] == 12
    mined = [json.loads(line)["neg"] for line in out.read_text().splitlines()]
    assert all(len(negatives) == 3 for negatives in mined)


def test_ctrl_c_stays_pythons() -> None:
    code = (
        "import signal, time\nfrom m3search.evaluation.java import start_java\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
        "start_java()\n"
        "try:\n    print('started', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('caught')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "caught\n"
    assert process.returncode == 0
