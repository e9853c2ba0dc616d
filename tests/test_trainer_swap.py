"""A new vocabulary for an old encoder: where its pieces lie, and the encoder that is written."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from new_vocabularies import train, write_old, write_training_files
from tiny_models import HIDDEN
from trainer_scripts import Record, Runner, script, write
from transformers import AutoModel, ElectraModel

from m3search.errors import ArtifactError
from m3search.model.checkpoint import load_backbone, load_tokenizer
from m3search.training.positions import extend_positions
from m3search.training.recipe import Start
from m3search.training.start import start_model

swapping = script("swap_vocabulary")
placing, match, electra = map(script, ("piece_vectors", "vocabulary_match", "electra_model"))
SIZE = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_training_files(tmp_path_factory.mktemp("data"))
    (folder / "lexicon.es-en.tsv").write_text("agua\tWater\nfaro\tlighthouse\n", encoding="utf-8")
    (folder / "lexicon.sw-en.tsv").write_text("Maji\twater\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_old(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, data: Path, old: Path) -> Path:
    out = tmp_path_factory.mktemp("new") / "tokenizer"
    return train(data, out, "--old", old, "--old-words", 600)


@pytest.fixture(scope="module")
def swapped(
    tmp_path_factory: pytest.TempPathFactory, data: Path, old: Path, tokenizer: Path
) -> Path:
    out = tmp_path_factory.mktemp("swapped") / "electra"
    english = data / "text.en.jsonl.gz"
    options = ("--texts", english, "--lexicons", data, "--steps", 60)
    arguments = (old, tokenizer, "--out", out, "--embedding-size", SIZE, *options)
    report = out.parent / "report.json"
    swapping.main([str(each) for each in (*arguments, "--report", report)])
    return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(swapping, capsys)


def old_words(old: Path) -> Any:
    return swapping.load_old(old).words


def test_pieces_of_the_same_text() -> None:
    old = {"[CLS]": 0, "water": 1, "##water": 2, "中": 3, "##文": 4, ",": 5, "##[CLS]": 6}
    new = ["[CLS]", "▁water", "water", "中", "文", "▁,", ",", "▁", "<0x41>", "▁中"]
    assert match.equal_pieces(new, old, ("[CLS]",)) == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 9: 3}


def test_equal_pieces_keep_their_vectors(old: Path, tokenizer: Path) -> None:
    words, new = old_words(old), load_tokenizer(tokenizer)
    pieces = new.convert_ids_to_tokens(list(range(len(new))))
    translations = {number: {5: 1.0} for number in range(len(pieces))}
    placed = placing.place_pieces(pieces, words, translations, seed=1)
    ids = words.tokenizer.get_vocab()
    for piece in ("▁water", "▁the", "▁,", "[MASK]"):
        number = new.get_vocab()[piece]
        assert placed.sources[number] == "equal"
        expected = words.vectors[ids[piece.removeprefix("▁")]]
        np.testing.assert_array_equal(placed.vectors[number], expected)
    assert placed.counts()["equal"] > 600


def test_the_other_pieces(old: Path) -> None:
    words = old_words(old)
    ids = words.tokenizer.get_vocab()
    pieces = ["▁agua", "▁waterlight", "▁water", "<0x41>", "▁中文"]
    translations = {0: {ids["water"]: 3.0, ids["light"]: 1.0}}
    placed = placing.place_pieces(pieces, words, translations, seed=1)
    assert placed.sources == ["translation", "parts", "equal", "none", "none"]
    vectors = words.vectors
    lengths = np.linalg.norm(vectors, axis=1)
    mean = 0.75 * vectors[ids["water"]] + 0.25 * vectors[ids["light"]]
    mean *= (0.75 * lengths[ids["water"]] + 0.25 * lengths[ids["light"]]) / np.linalg.norm(mean)
    np.testing.assert_allclose(placed.vectors[0], mean, rtol=1e-5)
    parts = words.tokenizer("waterlight", add_special_tokens=False)["input_ids"]
    direction = placed.vectors[1] / np.linalg.norm(placed.vectors[1])
    expected = vectors[parts].mean(axis=0)
    np.testing.assert_allclose(direction, expected / np.linalg.norm(expected), atol=1e-5)
    for unknown in placed.vectors[3:]:
        noise = (unknown - vectors.mean(axis=0)) / vectors.std(axis=0)
        assert 0 < np.abs(noise).max() < 6 * placing.NOISE
    again = placing.place_pieces(pieces, words, translations, seed=1)
    np.testing.assert_array_equal(again.vectors, placed.vectors)


def test_the_parts_of_a_piece_inside_words_are_those_inside_words(old: Path) -> None:
    words = old_words(old)
    ids = words.tokenizer.get_vocab()
    letters = [
        piece for piece in ids if len(piece) == 1 and f"##{piece}" in ids and piece.isalpha()
    ]
    first, second = next(
        (a, b) for a in letters for b in letters if a + b not in ids and f"##{a}{b}" not in ids
    )
    placed = placing.place_pieces([first + second, f"▁{first}{second}"], words, {}, seed=1)
    assert placed.sources == ["parts", "parts"]
    for vector, names in zip(
        placed.vectors, ((f"##{first}", f"##{second}"), (first, f"##{second}")), strict=True
    ):
        expected = words.vectors[[ids[name] for name in names]].mean(axis=0)
        np.testing.assert_allclose(
            vector / np.linalg.norm(vector), expected / np.linalg.norm(expected), atol=1e-5
        )


class Bilingual(NamedTuple):
    """Nine words of another language that are pieces, and nine English ones, said in turn."""

    foreign: list[str]
    english: list[str]
    file: Path
    best: dict[int, int]
    """the old ids that the new pieces' ids translate into"""


@pytest.fixture
def bilingual(tmp_path: Path, old: Path, tokenizer: Path) -> Bilingual:
    ids, new = old_words(old).tokenizer.get_vocab(), load_tokenizer(tokenizer).get_vocab()
    foreign = sorted(p[1:] for p in new if p[0] == "▁" and p[1:].isalpha() and p[4:])
    foreign = [word for word in foreign if word not in ids][:9]
    english = sorted(p for p in ids if p.isalpha() and p.isascii() and p[4:] and f"▁{p}" in new)[:9]
    random = np.random.default_rng(2)
    said = [random.choice(9, size=3, replace=False) for _ in range(60)]
    lines: list[Record] = [
        {
            "query": " ".join(foreign[n] for n in numbers),
            "pos": [" ".join(english[n] for n in back)],
        }
        for numbers, back in ((each, each[::-1]) for each in said)
    ]
    path = write(tmp_path / "a.xx-en.jsonl", lines)
    pairs = zip(foreign, english, strict=True)
    return Bilingual(foreign, english, path, {new[f"▁{word}"]: ids[e] for word, e in pairs})


def find(bilingual: Bilingual, old: Path, tokenizer: Path, texts: list[str], **more: Any) -> Any:
    asked = types.SimpleNamespace(**{"lexicons": None, "parallel": [bilingual.file], **more})
    return swapping.find_translations(
        asked, swapping.load_old(old), load_tokenizer(tokenizer), texts
    )


def test_parallel_files_translate_new_pieces_into_old_ones(
    bilingual: Bilingual, old: Path, tokenizer: Path
) -> None:
    for english in ([], bilingual.english):
        found = find(bilingual, old, tokenizer, english)
        assert set(found) == {"parallel"}
        best = {n: max(of, key=lambda word: of[word]) for n, of in found["parallel"].items()}
        assert best == bilingual.best


def test_pieces_that_are_english_have_no_translations(
    tmp_path: Path, bilingual: Bilingual, old: Path, tokenizer: Path
) -> None:
    """Of neither kind, where parallel texts tell which pieces are; a word quoted once is not."""
    lines = [f"{word}\t{bilingual.english[0]}\n" for word in bilingual.foreign]
    (tmp_path / "lexicon.xx-en.tsv").write_text("".join(lines), encoding="utf-8")
    loaned, quoted = bilingual.foreign[:2]
    english = [f"{loaned} {loaned} {bilingual.english[0]}"] * 30 + bilingual.english * 3 + [quoted]
    found = find(bilingual, old, tokenizer, english, lexicons=tmp_path)
    kept = set(bilingual.best) - {load_tokenizer(tokenizer).get_vocab()[f"▁{loaned}"]}
    assert set(found["parallel"]) == set(found["lexicons"]) == kept
    found = find(bilingual, old, tokenizer, english, lexicons=tmp_path, parallel=[])
    assert set(found) == {"lexicons"} and set(found["lexicons"]) == set(bilingual.best)


def test_the_swapped_encoder(swapped: Path, old: Path, tokenizer: Path) -> None:
    report = json.loads((swapped.parent / "report.json").read_text())
    before, after = report["relative_error"]["factorised"], report["relative_error"]["refined"]
    assert after["english"] < before["english"] and after["all_pieces"] < before["all_pieces"]
    assert sum(report["pieces"].values()) == len(load_tokenizer(tokenizer))
    assert report["pieces"]["translation"] == report["translated"]["lexicons"] >= 1
    model = AutoModel.from_pretrained(swapped)
    assert isinstance(model, ElectraModel) and model.config.embedding_size == SIZE
    total = sum(tensor.numel() for tensor in model.parameters())
    assert report["parameters"]["total"] == total
    longer = total + (8192 - 128) * SIZE + 129 * (HIDDEN + 1)
    assert report["parameters"]["megabytes_fp16"] == round(2 * longer / 1e6, 2)
    layers = load_backbone(old).encoder.state_dict()
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, layers[name], rtol=0, atol=0)
    text = "Water in the lighthouse"
    ids = load_tokenizer(swapped)(text)["input_ids"]
    assert ids == load_tokenizer(tokenizer)(text)["input_ids"]


def test_what_loads_the_swapped_encoder(swapped: Path) -> None:
    started = start_model(Start(str(swapped), multi_dim=16, pooling="mean", max_length=300))
    assert started.max_length == 300 and started.heads == ()
    ids = torch.tensor([started.tokenizer("water " * 280)["input_ids"]])
    with torch.autocast("cpu", torch.bfloat16):
        outputs = started.model(ids, torch.ones_like(ids))
    assert outputs.dense.shape == (1, HIDDEN) and outputs.dense.isfinite().all()
    backbone = load_backbone(swapped)
    extend_positions(backbone, 256)
    states = backbone.to(torch.bfloat16)(ids[:, :200])[0]
    assert states.dtype == torch.bfloat16 and states.isfinite().all()


def test_errors(
    tmp_path: Path, run: Runner, data: Path, old: Path, tokenizer: Path, tiny_checkpoint: Path
) -> None:
    english = ("--texts", data / "text.en.jsonl.gz")
    out = ("--out", tmp_path / "o", "--embedding-size", 8, *english)
    assert "expected a BERT encoder" in run.fail(tiny_checkpoint, tokenizer, *out)
    said = run.fail(old, tokenizer, *out, "--embedding-size", HIDDEN)
    assert f"--embedding-size: expected 2 to {HIDDEN - 1}" in said
    assert "expected word lists" in run.fail(old, tokenizer, *out, "--lexicons", tmp_path)
    one = write(tmp_path / "one.jsonl", [{"text": "t"}])
    assert "two English texts" in run.fail(old, tokenizer, *out, "--texts", one)
    questions = write(tmp_path / "q.sw-en.jsonl", [{"query": "q", "pos": ["one", "two"]}])
    said = run.fail(old, tokenizer, *out, "--parallel", questions)
    assert "expected texts with their English translations" in said and "none in 0 pairs" in said
    assert "expected a new folder" in run.fail(old, tokenizer, *out, "--out", old)
    assert "usage" in run.fail(old, tokenizer, "--out", tmp_path / "o", *english)


def test_a_tokenizer_without_all_its_files(
    tmp_path: Path, run: Runner, data: Path, old: Path, swapped: Path, tokenizer: Path
) -> None:
    """It is told before anything is read, and nothing is written."""
    part = tmp_path / "part"
    part.mkdir()
    shutil.copyfile(tokenizer / "tokenizer.json", part / "tokenizer.json")
    out = tmp_path / "o"
    arguments = ("--out", out, "--embedding-size", 8, "--texts", data / "none.jsonl")
    said = run.fail(old, part, *arguments)
    assert f"{part}: expected a tokenizer (tokenizer.json, tokenizer_config.json)" in said
    assert "found no tokenizer_config.json" in said and "train_tokenizer.py" in said
    with pytest.raises(ArtifactError, match=r"found no tokenizer_config\.json"):
        electra.write_encoder(out, AutoModel.from_pretrained(swapped), part)
    assert not out.exists()
