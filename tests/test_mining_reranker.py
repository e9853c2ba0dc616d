"""Settings that are refused, and a cross-encoder that looks at what is drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mining_fakes import ALL, ListedSource, number_texts
from tiny_models import HIDDEN, sentencepiece_tokenizer, write_bert
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from m3search.errors import ArtifactError, ConfigError
from m3search.records import Document
from m3search.training.mining import reranker
from m3search.training.mining.candidates import (
    Example,
    KeyedText,
    text_key,
)
from m3search.training.mining.negatives import Tally, mine
from m3search.training.mining.reranker import Reranker
from m3search.training.mining.rules import (
    MiningSettings,
    drawing_order,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranks": (10, 10)},
        {"ranks": (-1, 10)},
        {"negatives": 0},
        {"margin": -0.1},
        {"margin": math.inf},
        {"relative_margin": 1.1},
        {"reranker_threshold": -0.1},
        {"max_score": math.nan},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} = "):
        MiningSettings(**wrong)


def test_reranker_and_settings_go_together() -> None:
    source = ListedSource({"x": 0.1})
    with pytest.raises(ConfigError, match=r"reranker_threshold or teacher_scores.*found none"):
        mine([], source, MiningSettings(teacher_scores=True))
    with pytest.raises(ConfigError, match=r"reranker_threshold or teacher_scores.*found none"):
        mine([], source, MiningSettings(reranker_threshold=0.5))
    with pytest.raises(ConfigError, match="found one that neither asks"):
        mine([], source, ALL, reranker=Judge())


class Judge:
    """The logit of 'text n' is 5 - n; all others get 9. Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.asked += pairs
        words = [text.split() for _, text in pairs]
        found = [5.0 - int(each[1]) if each[0] == "text" else 9.0 for each in words]
        return np.array(found, np.float32)


def test_the_reranker_sees_only_what_is_drawn_and_drops_as_if_it_had_seen_all() -> None:
    source, judge, tally = ListedSource(number_texts(40)), Judge(), Tally()
    settings = MiningSettings(
        ranks=(0, 40), negatives=3, relative_margin=None, reranker_threshold=1 / (1 + math.exp(15))
    )  # a logit of -15 may stay: text 20 and those behind it
    records = [{"query": f"q{number}", "pos": ["p"]} for number in range(5)]
    mined = list(mine(records, source, settings, reranker=judge, tally=tally))
    (found,) = source.find([Example("", ())], 40)
    for record in mined:
        order = drawing_order(found.candidates, 42, text_key(record["query"]))
        good = [each for each in order if each.rank >= 20][:3]
        good.sort(key=lambda each: each.rank)
        assert record["neg"] == [each.passage.text for each in good]
    assert len(judge.asked) == len(set(judge.asked)) < 5 * 40 / 2
    assert tally.dropped == {"reranker": len(judge.asked) - 15}


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 0), (1.0, 8), (0.5, 4)])
def test_the_threshold_is_a_probability(threshold: float, kept: int) -> None:
    settings = MiningSettings((0, 9), 9, relative_margin=None, reranker_threshold=threshold)
    source = ListedSource({f"text {number}": 0.1 for number in range(1, 9)})
    (record,) = mine([{"query": "q", "pos": ["p"]}], source, settings, reranker=Judge())
    assert len(record["neg"]) == kept  # 0.5 is a logit of 0: text 5 stays, text 4 goes


def test_teacher_scores_are_logits_of_all_that_is_written() -> None:
    settings = MiningSettings((0, 3), 3, relative_margin=None, teacher_scores=True, keep=True)
    record = {"pos_scores": [0], "query": "q", "title": "t", "pos": ["p", "text 7"], "neg": ["o"],
              "neg_scores": [0]}  # fmt: skip
    judge = Judge()
    (mined,) = mine([record], ListedSource(number_texts(3)), settings, reranker=judge)
    assert mined["neg"] == ["o", "text 1", "text 2", "text 3"]
    assert mined["neg_scores"] == [9.0, 4.0, 3.0, 2.0]
    assert mined["pos_scores"] == [9.0, 9.0]  # read with their title
    assert list(mined) == list(record)
    assert ("q", "t\np") in judge.asked and len(judge.asked) == len(set(judge.asked))


def test_a_teacher_reads_negatives_with_their_titles_too() -> None:
    source, judge = ListedSource({}), Judge()
    source.passages = [KeyedText.of(Document("d", "text 1", "T"))]
    source.scores = [0.5]
    settings = MiningSettings((0, 3), 3, relative_margin=None, teacher_scores=True)
    (mined,) = mine([{"query": "q", "pos": ["text 2"]}], source, settings, reranker=judge)
    assert (mined["neg"], mined["neg_titles"]) == (["text 1"], ["T"])
    assert ("q", "T\ntext 1") in judge.asked


@pytest.fixture(scope="module")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("models") / "reranker"
    torch.manual_seed(3)
    tokenizer = sentencepiece_tokenizer(sample_texts[:60])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_labels=1,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=64,
        initializer_range=0.4, pad_token_id=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_reranker_scores_each_pair_as_if_alone(
    tiny_reranker: Path, sample_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Reranker.load(tiny_reranker, device="cpu", dtype="float32")
    words = [text.split() for text in sample_texts[:9]]
    pairs = [(" ".join(words[-n][:4]), " ".join(words[n][: n + 2])) for n in range(9)]
    model = BertForSequenceClassification.from_pretrained(tiny_reranker).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_reranker)
    for each in (tokenizer, loaded._tokenizer):  # as a tokenizer of the BERT class has it
        each.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    expected = []
    for query, text in pairs:
        inputs = tokenizer(query, text, truncation=True, max_length=64, return_tensors="pt")
        assert inputs["token_type_ids"].any()
        with torch.no_grad():
            expected.append(float(model(**inputs).logits[0, 0]))
    for budget in (1, 60, 5000):
        monkeypatch.setattr(reranker, "_BATCH_TOKENS", {"cpu": budget})
        logits = loaded.logits(pairs)
        assert logits.dtype == np.float32 and logits.shape == (len(pairs),)
        assert logits.tolist() == pytest.approx(expected, abs=1e-5)
    scores = [1 / (1 + math.exp(-logit)) for logit in expected]
    assert loaded.score(pairs).tolist() == pytest.approx(scores, abs=1e-5)
    assert loaded.score([]).shape == (0,)
    assert np.ptp(logits) > 0.1


def test_long_pairs_lose_the_end_of_the_longer_text(tiny_reranker: Path) -> None:
    loaded = Reranker.load(tiny_reranker, device="cpu", dtype="float32", max_length=16)
    assert loaded.max_length == 16
    assert Reranker.load(tiny_reranker).max_length == 64  # its positions
    long = "the lighthouse keeper " * 30
    a, b, c = loaded.logits([("who", long), ("who", long + "x"), ("who", "x" + long)])
    assert a == b != c


def test_loading_says_nothing(tiny_reranker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Reranker.load(tiny_reranker)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_reranker_is_refused(
    tiny_reranker: Path, tmp_path: Path, sample_texts: list[str]
) -> None:
    with pytest.raises(ConfigError, match="expected 8 to 64 tokens"):
        Reranker.load(tiny_reranker, max_length=65)
    with pytest.raises(ConfigError, match="no such folder"):
        Reranker.load("nowhere")
    with pytest.raises(ArtifactError, match="expected a Hugging Face sequence classifier"):
        Reranker.load(tmp_path)
    two = BertForSequenceClassification.from_pretrained(
        tiny_reranker, num_labels=2, ignore_mismatched_sizes=True
    )
    two.save_pretrained(tmp_path / "two")
    with pytest.raises(ArtifactError, match="found 2 labels"):
        Reranker.load(tmp_path / "two")
    encoder = write_bert(tmp_path / "encoder", sample_texts[:5])
    config = json.loads((encoder / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"found no .*classifier\."):
        Reranker.load(encoder)
