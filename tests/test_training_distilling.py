"""Imitating another encoder: words, distances, gradients, and that it works."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training_gradients import assert_same, gradients_of, run_processes
from tiny_models import sentencepiece_tokenizer, write_bert
from training_runs import (
    SUBJECTS,
    make_recipe,
    read_log,
    starting,
    write_backbone,
    write_lines,
)
from transformers import PreTrainedModel

from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import load_backbone, load_tokenizer
from m3search.model.tokenization import Tokenization
from m3search.training import imitation
from m3search.training.devices import Devices
from m3search.training.encoding import Parts
from m3search.training.finetuning import step_seed
from m3search.training.imitation import (
    Pass,
    Reader,
    Reading,
    Teacher,
    Understood,
    arrange,
    read,
    understand,
    word_errors,
    word_rows,
)
from m3search.training.loop import train
from m3search.training.memory_bank import MemoryBank
from m3search.training.recipe import Distillation, Recipe, Source
from m3search.training.run import Run

TEXTS = ["A lighthouse warns ships.", "Bread, again: it rises!", "zero"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    return write_backbone(tmp_path_factory.mktemp("teacher"), sample_texts)


@pytest.fixture
def recipe(teacher: Path, tmp_path: Path) -> Recipe:
    """A student with other weights and another vocabulary, and translations of passages."""
    data = tmp_path / "data"
    lines = [
        {"query": f"{subject[::-1]} {number}", "pos": [f"All about the {subject}, part {number}."]}
        for subject in SUBJECTS
        for number in range(2)
    ]
    made = make_recipe(teacher, data)
    write_lines(data / "pairs.jsonl", lines)
    words = [word for line in lines for word in (line["query"], *line["pos"])]
    student = write_bert(tmp_path / "student", words, seed=8)
    return replace(
        made,
        stage="distil",
        start=replace(made.start, checkpoint=str(student), multi_dim=None, dropout=0.0),
        data=replace(made.data, negatives=0),
        distillation=Distillation(str(teacher), "mean", word_weight=0.5, contrast_weight=0.3),
        objective=None,
    )


def in_one_pass(
    texts: list[Reading], backbone: PreTrainedModel, pad_id: int
) -> tuple[Pass, list[int]]:
    """The pass, and which text each of its rows is."""
    passes = arrange(texts, backbone, Parts(1 << 20, price=1 << 20), pad_id)
    (one,) = passes.parts
    return one, passes.order.tolist()


def test_a_token_belongs_to_the_word_of_its_characters(sample_texts: list[str]) -> None:
    tokenization = Tokenization(sentencepiece_tokenizer(sample_texts))
    for text, found in zip(TEXTS, read(tokenization, TEXTS, 64), strict=True):
        tokens = tokenization.tokens(text, 64)  # without the first
        assert found.ids[1:].tolist() == [token.id for token in tokens]
        assert found.size == len(text.split()) + sum(map(text.count, ".,:!"))
        assert found.words[0] == found.words[-1] == found.size
        words = ["A lighthouse warns ships .", "Bread , again : it rises !", "zero"]
        spelled = words[TEXTS.index(text)].split()
        for token, word in zip(tokens[:-1], found.words[1:-1].tolist(), strict=True):
            piece = text[token.start : token.end].strip()
            assert piece in spelled[word] if piece else word == found.size


def test_of_a_long_text_the_first_words_are_read(sample_texts: list[str]) -> None:
    tokenization = Tokenization(sentencepiece_tokenizer(sample_texts))
    (whole,), (cut,) = (read(tokenization, ["one two three four five"], n) for n in (64, 5))
    assert cut.size == whole.size == 5
    assert cut.words[1:-1].tolist() == whole.words[1:4].tolist()
    assert read(tokenization, [], 64) == []


def test_understanding_is_the_mean_over_tokens(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    model = run.model.train(False)
    texts = read(run.tokenization, TEXTS, 16)
    one, order = in_one_pass(texts, model.backbone, run.tokenization.pad_id)
    assert order == [1, 0, 2]
    got = understand(model.backbone, "mean", one)
    row = 0
    for number, text in enumerate(texts[place] for place in order):
        ids = torch.from_numpy(text.ids)[None]
        states = model.backbone(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0]
        mean = states.mean(dim=0)
        torch.testing.assert_close(got.sentences[number], mean / mean.norm(), atol=1e-5, rtol=1e-4)
        for word in range(text.size):
            own = [states[place] for place in np.flatnonzero(text.words == word)]
            assert bool(got.read[row]) == bool(own)
            wanted = torch.stack(own).mean(dim=0) if own else torch.zeros_like(mean)
            torch.testing.assert_close(got.words[row], wanted, atol=1e-5, rtol=1e-4)
            row += 1


def test_word_errors_are_those_of_a_loop() -> None:
    torch.manual_seed(1)
    sizes = [3, 0, 2, 2]

    def make(read: list[bool]) -> Understood:
        seen = torch.tensor(read)
        return Understood(torch.empty(4, 4), torch.randn(len(read), 4) * seen[:, None], seen)

    student = make([True, True, False, True, True, True, True])
    teacher = make([True, False, True, True, True, False, False])
    errors = [
        float((s - t).square().sum() / t.square().sum())
        for s, t in zip(student.words, teacher.words, strict=True)
    ]
    wanted = [errors[0], 0.0, (errors[3] + errors[4]) / 2, 0.0]
    assert word_errors(student, teacher, np.array(sizes)).tolist() == pytest.approx(
        wanted, rel=1e-5
    )


def test_words_of_chosen_texts_are_found() -> None:
    texts = ["ab", "", "cde", "f"]
    every = "".join(texts)
    for chosen in ([2, 0], [1], [3, 1, 2, 0], []):
        rows = word_rows(np.array(list(map(len, texts))), np.array(chosen, np.int64))
        assert "".join(every[row] for row in rows) == "".join(texts[text] for text in chosen)


def test_a_reader_reads_a_text_once(
    sample_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenization = Tokenization(sentencepiece_tokenizer(sample_texts))
    asked: list[str] = []

    def counted(tokenization: Tokenization, texts: list[str], length: int) -> list[Reading]:
        asked.extend(texts)
        return read(tokenization, texts, length)

    monkeypatch.setattr(imitation, "read", counted)
    first = read(tokenization, TEXTS, 64)
    monkeypatch.setattr(imitation, "REMEMBERED", len(first[0].ids) + len(first[1].ids))
    reader = Reader(tokenization, 64)
    for texts in (TEXTS, [*TEXTS, TEXTS[0]], []):
        for text, found in zip(texts, reader(texts), strict=True):
            wanted = first[TEXTS.index(text)]
            assert found.ids.tolist() == wanted.ids.tolist()
            assert found.words.tolist() == wanted.words.tolist()
            assert found.size == wanted.size
    assert asked == [*TEXTS, TEXTS[2]]  # there was no room for the third


def test_a_teacher_gives_texts_in_their_order(teacher: Path, tmp_path: Path) -> None:
    guide = Teacher(Distillation(str(teacher), "mean"), torch.device("cpu"), half=False)
    texts = guide.reader(16)([*TEXTS[2:], *TEXTS[:2], TEXTS[0]])
    together = guide.understand(guide.arrange(texts))
    alone = [guide.understand(guide.arrange([text])) for text in texts]
    for column, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(column, torch.cat(parts), atol=1e-5, rtol=1e-4)
    assert [len(column) for column in guide.understand(guide.arrange([]))] == [0, 0, 0]


def test_a_bank_gives_different_passages_by_the_seed(teacher: Path) -> None:
    devices = Devices()
    guide = Teacher(Distillation(str(teacher), "mean"), devices.device, half=False)
    texts = [f"All about the {subject}." for subject in SUBJECTS]
    bank = MemoryBank([*texts, *texts], guide, 16, devices)
    of_all = {tuple(row) for row in bank.draw(99, 0).tolist()}
    assert len(of_all) == len(texts)
    wanted = guide.vectors(texts, 16)
    for row in bank.draw(99, 0):
        assert (wanted - row).abs().sum(dim=1).min() < 1e-4
    draws = [[tuple(row) for row in bank.draw(3, seed).tolist()] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert all(len({*draw} & of_all) == 3 for draw in draws)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    recipe: Recipe, teacher: Path, tmp_path: Path
) -> None:
    same = replace(
        with_settings(recipe, contrast_weight=0.0),
        start=replace(recipe.start, checkpoint=str(teacher)),
        data=replace(recipe.data, sources=(Source("*.jsonl", texts=True),)),
    )
    run = Run(same, tmp_path)
    metrics = run.accumulate()
    assert metrics["loss"] == pytest.approx(0, abs=1e-6)
    assert "loss_translations" not in metrics
    assert max(float(g.norm()) for g in gradients_of(run).values()) < 1e-3


def test_parts_and_processes_change_no_gradient(recipe: Recipe, tmp_path: Path) -> None:
    recipe = with_settings(recipe, contrast_passages=6)
    whole = replace(recipe, batches=replace(recipe.batches, sub_batch_tokens=8192))
    run = Run(whole, tmp_path)
    metrics = run.accumulate()
    wanted = gradients_of(run)
    assert not any(name.startswith(("sparse", "colbert")) for name in wanted)
    parts = Run(replace(recipe, batches=replace(recipe.batches, sub_batch_tokens=24)), tmp_path)
    assert parts.accumulate() == pytest.approx(metrics, rel=1e-5)
    assert_same(gradients_of(parts), wanted)
    (of_processes,) = run_processes(2, [whole], tmp_path)
    for gradients, told in of_processes:
        assert_same(gradients, wanted)
        assert told == pytest.approx(metrics, rel=1e-5)


def test_dropout_is_another_at_every_step(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(starting(recipe, dropout=0.3), tmp_path)
    texts = run.distilling.read(run.sampler.batch(0))
    found = []
    for step in (0, 0, 1):
        run.model.zero_grad()
        loss = run.distilling.accumulate(step, texts)["loss"]
        found.append((loss, gradients_of(run)))
    (first, gradients), (same, same_gradients), (other, _) = found
    assert first == same != other
    assert_same(same_gradients, gradients)


def with_settings(recipe: Recipe, **changes: float) -> Recipe:
    assert recipe.distillation is not None
    return replace(recipe, distillation=replace(recipe.distillation, **changes))


def test_the_loss_is_of_sentences_words_and_contrast(recipe: Recipe, tmp_path: Path) -> None:
    found = Run(recipe, tmp_path).accumulate()
    sentences = (found["loss_passages"] + found["loss_translations"]) / 2
    expected = sentences + 0.5 * found["loss_words"] + 0.3 * found["loss_contrast"]
    assert found["loss"] == pytest.approx(expected)
    alone = with_settings(recipe, word_weight=0.0, contrast_weight=0.0)
    assert Run(alone, tmp_path).accumulate()["loss"] == pytest.approx(sentences)


@pytest.mark.parametrize("drawn", [0, 5])
def test_contrast_is_the_cross_entropy_to_the_teachers_shares(
    recipe: Recipe, teacher: Path, tmp_path: Path, drawn: int
) -> None:
    run = Run(with_settings(recipe, temperature=0.2, contrast_passages=drawn), tmp_path)
    batch = run.sampler.batch(0)
    sides = []
    for folder, texts in ((teacher, batch.passages), (None, [*batch.passages, *batch.queries])):
        backbone = run.model.backbone if folder is None else load_backbone(folder)
        tokenizer = run.tokenizer if folder is None else load_tokenizer(folder)
        tokenization = Tokenization(tokenizer)
        readings = read(tokenization, texts, run.recipe.data.passage_max_length)
        with torch.no_grad():
            one, order = in_one_pass(readings, backbone, tokenization.pad_id)
            found = understand(backbone.eval(), "mean", one).sentences
            sides.append(found[np.argsort(order)])
    passages, texts = sides
    seed = step_seed(run.recipe.optimiser.seed, 0, 0, "bank")
    bank = run.distilling._bank
    assert (bank is not None) == bool(drawn)
    shown = torch.cat([passages, *([bank.draw(drawn, seed)] if bank else [])])
    assert len(shown) == len(passages) + drawn
    owners = [*range(len(batch.passages)), *batch.targets.tolist()]
    wanted = ((passages @ shown.T) / 0.2).softmax(dim=1)[owners]
    found = ((texts @ shown.T) / 0.2).softmax(dim=1)
    terms = -(wanted * found.log()).sum(dim=1)
    assert run.accumulate()["loss_contrast"] == pytest.approx(float(terms.mean()), rel=1e-4)


def test_passages_to_tell_apart_need_a_weight(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="contrast_passages = 4 with contrast_weight = 0"):
        with_settings(recipe, contrast_weight=0.0, contrast_passages=4)


def test_a_student_learns_the_vectors_of_texts_and_translations(
    recipe: Recipe, teacher: Path, tmp_path: Path
) -> None:
    longer = replace(
        recipe,
        optimiser=replace(recipe.optimiser, steps=60, learning_rate=3e-3),
        batches=replace(recipe.batches, passages=16),
    )
    folder = train(longer, tmp_path / "out")
    first, *_, last = read_log(folder)
    for name in ("loss_passages", "loss_translations", "loss_words"):
        assert last[name] < 0.5 * first[name], name
    shutil.rmtree(folder / "lengths")
    assert not (folder / "sparse_linear.pt").exists()
    with pytest.raises(ArtifactError, match="none of sparse and multi"):
        Encoder.load(folder)


def test_teacher_and_student_have_vectors_of_one_length(
    recipe: Recipe, sample_texts: list[str], tmp_path: Path
) -> None:
    other = write_bert(tmp_path / "wide", sample_texts, hidden=64)
    wide = replace(recipe, distillation=Distillation(str(other)))
    with pytest.raises(ConfigError, match=r"distillation\.teacher: expected .* of 32 dimensions"):
        Run(wide, tmp_path)
