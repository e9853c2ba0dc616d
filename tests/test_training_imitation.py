"""What an imitated encoder makes of texts and words, read once and pass by pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import sentencepiece_tokenizer
from training_runs import SUBJECTS, in_one_pass, write_backbone

from m3search.model.checkpoint import load_backbone, load_tokenizer
from m3search.model.tokenization import Tokenization
from m3search.training import imitation
from m3search.training.devices import Devices
from m3search.training.imitation import (
    Reader,
    Reading,
    Teacher,
    Understood,
    read,
    understand,
    word_errors,
    word_rows,
)
from m3search.training.memory_bank import MemoryBank
from m3search.training.recipe import Distillation

TEXTS = ["A lighthouse warns ships.", "Bread, again: it rises!", "zero"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    return write_backbone(tmp_path_factory.mktemp("teacher"), sample_texts)


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


def test_understanding_is_the_mean_over_tokens(teacher: Path) -> None:
    backbone, tokenization = load_backbone(teacher), Tokenization(load_tokenizer(teacher))
    texts = read(tokenization, TEXTS, 16)
    one, order = in_one_pass(texts, backbone, tokenization.pad_id)
    assert order == [1, 0, 2]
    got = understand(backbone, "mean", one)
    row = 0
    for number, text in enumerate(texts[place] for place in order):
        ids = torch.from_numpy(text.ids)[None]
        states = backbone(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0]
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
    bank = MemoryBank([*texts, *texts], guide, 16, devices, most=99)
    of_all = {tuple(row) for row in bank.draw(99, 0).tolist()}
    assert len(of_all) == len(texts)
    wanted = guide.vectors(texts, 16)
    for row in bank.draw(99, 0):
        assert (wanted - row).abs().sum(dim=1).min() < 1e-4
    draws = [[tuple(row) for row in bank.draw(3, seed).tolist()] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert all(len({*draw} & of_all) == 3 for draw in draws)
    some = {
        tuple(row) for row in MemoryBank(texts, guide, 16, devices, most=4).draw(99, 0).tolist()
    }
    assert len(some) == 4 and some < of_all
