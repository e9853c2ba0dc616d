"""Encoders without all heads: what they encode for, how they are measured, who refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from running_commands import Result, command_line  # noqa: F401
from tiny_models import HIDDEN, write_bert, write_heads

from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.index import Index
from m3search.model.checkpoint import load_checkpoint, save_checkpoint
from m3search.records import Document, Query, Run
from m3search.search import Searcher

TEXTS = ["tea from green leaves", "a late train", "rice and tea", "the moon at night"]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "plain", TEXTS)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("".join(lines))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a late train"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    return folder


def set_pooling(folder: Path, pooling: str) -> None:
    (folder / "1_Pooling").mkdir()
    config = {"pooling_mode_cls_token": False, f"pooling_mode_{pooling}_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def test_a_plain_encoder_gives_its_dense_vectors_and_nothing_else(plain: Path) -> None:
    set_pooling(plain, "mean")
    encoder = Encoder.load(plain, modes=("dense",))
    encoded = encoder.encode([*TEXTS, ""])
    assert (encoder.modes, encoder.identity.pooling) == (("dense",), "mean")
    assert encoded.sparse.nnz == 0
    assert [vectors.shape for vectors in encoded.multi] == [(0, HIDDEN)] * 5
    write_heads(plain)  # with heads, its dense vectors are the same
    np.testing.assert_allclose(encoded.dense, Encoder.load(plain).encode([*TEXTS, ""]).dense)


def test_pooling_is_said_where_the_folder_says_nothing(plain: Path) -> None:
    with pytest.raises(ConfigError, match="--pooling mean") as caught:
        Encoder.load(plain, modes=("dense",))
    assert str(plain) in caught.value.expected
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        Encoder.load(plain, modes=("dense",), pooling="meen")
    mean, first = (
        Encoder.load(plain, modes=("dense",), pooling=pooling) for pooling in ("mean", "cls")
    )
    assert (mean.identity.pooling, first.identity.pooling) == ("mean", "cls")
    assert not np.allclose(mean.encode(TEXTS).dense, first.encode(TEXTS).dense, atol=0.01)


@pytest.mark.parametrize("heads", [(), ("sparse",), ("multi",)])
def test_rows_of_the_modes_there_are_those_of_the_whole_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path, judged: Path, heads: tuple[str, ...]
) -> None:
    model, tokenizer, info = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path / "part", model, tokenizer, info, heads=heads)
    rows = ("dense", *heads, *("+".join(("dense", mode)) for mode in heads))
    wanted = EvaluationSet(judged, rows=rows, max_length=64)
    part = Encoder.load(tmp_path / "part", max_length=64, modes=("dense", *heads))  # type: ignore[arg-type]
    assert set(part.modes) == {"dense", *heads}
    found: list[dict[str, Run]] = []
    for encoder in (Encoder.load(tiny_checkpoint, max_length=64), part):
        given = partial(lambda encoder, _: encoder, encoder)
        evaluate_sets([wanted], given, keep=lambda _, runs, *__: found.append(runs))
    assert found[0] == found[1]


def test_a_searcher_refuses_modes_that_its_encoder_lacks(plain: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(plain, modes=("dense",), pooling="mean")
    documents = [Document(text, text) for text in TEXTS]
    searcher = Searcher(Index.build(tmp_path / "index", documents, encoder), encoder)
    queries = [Query("q", "tea")]
    assert len(searcher.run(queries, modes=("dense",))["q"]) == 4
    for ask in (
        lambda: searcher.run(queries, modes=("dense", "multi")),
        lambda: searcher.search("tea", modes=("dense",)),
        lambda: encoder.compute_score([("tea", "tea")]),
    ):
        with pytest.raises(ArtifactError, match="found dense alone"):
            ask()


def test_the_command_measures_dense_alone_and_says_what_is_missing(
    m3: Callable[..., Result], plain: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judged.parent)
    asked = ("eval", str(judged), "--model", str(plain), "--out", "report", "--json")
    whole = m3(*asked)
    assert whole.code == 1
    assert "expected an M3 checkpoint with sparse_linear.pt and colbert_linear.pt" in whole.err
    assert "found dense, and none of sparse and multi" in whole.err
    assert "m3search eval --rows dense" in whole.err
    unsaid = m3(*asked, "--rows", "dense")
    assert (unsaid.code, "--pooling mean" in unsaid.err) == (1, True)
    done = m3(*asked, "--rows", "dense,bm25", "--pooling", "mean")
    assert done.code == 0, done.err
    [found] = json.loads(done.out)["sets"].values()
    assert list(found["rows"]["dense"]) == ["nDCG@10", "R@100"]
    assert found["rows"]["dense"]["R@100"] == 1.0
    assert found["model"]["pooling"] == "mean"
    assert "pooling mean" in Path("report/report.md").read_text()
    indexing = m3("index", str(judged / "corpus.jsonl"), "--model", str(plain))
    assert (indexing.code, "none of sparse and multi" in indexing.err) == (1, True)


def test_a_suite_asks_for_the_modes_of_all_its_sets(
    m3: Callable[..., Result], plain: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judged.parent)
    sets = [f'[[sets]]\npath = "{judged}"\nname = "{name}"\n' for name in "ab"]
    suite = Path("suite.toml")
    suite.write_text('rows = ["dense"]\n' + "".join(sets))
    asked = ("eval", "suite.toml", "--model", str(plain), "--pooling", "cls", "--json")
    assert m3(*asked).code == 0
    suite.write_text(sets[0] + 'rows = ["dense"]\n' + sets[1] + 'rows = ["dense+multi"]\n')
    refused = m3(*asked)
    assert (refused.code, "with colbert_linear.pt" in refused.err) == (1, True)
