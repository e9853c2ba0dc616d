"""`m3search train`: its options, its progress, and how to go on when stopped."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from running_commands import Result, command_line, folder_of_a_test, lines_of  # noqa: F401

from m3search.errors import ConfigError


def test_train_passes_its_options_on(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    chosen = types.SimpleNamespace(optimiser=types.SimpleNamespace(steps=4))

    def read_recipe(path: Path, overrides: Sequence[str]) -> Any:
        if overrides == ["stepz=1"]:
            raise ConfigError.unknown("recipe", "stepz", ["steps"])
        asked.append((str(path), list(overrides)))
        return chosen

    def train(
        recipe: Any,
        out: Path,
        *,
        resume: bool,
        report: Callable[[Any], None],
        note: Callable[[str], None],
    ) -> Path:
        asked.append((recipe is chosen, str(out), resume))
        note("what was decided")
        report({"step": 2.0, "loss": 1.5, "loss_dense": 1.25})
        report({"step": 4.0, "loss": 0.5})
        if out.name == "stopped":
            raise KeyboardInterrupt
        return out

    loop = types.ModuleType("m3search.training.loop")
    loop.read_recipe, loop.train = read_recipe, train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "m3search.training.loop", loop)
    result = m3("train", "recipes/x.toml", "--set", "a=1", "--set", "b=2", "--resume", "--json")
    assert result.code == 0
    assert asked == [("recipes/x.toml", ["a=1", "b=2"]), (True, "checkpoints/x", True)]
    assert lines_of(result.out) == [{"checkpoint": "checkpoints/x", "steps": 4}]
    assert "what was decided\n" in result.err
    assert "step 2  loss 1.5000  loss_dense 1.2500" in result.err
    assert "step 4  loss 0.5000" in result.err
    out = tmp_path / "stopped"
    early = m3("train", "x.toml", "--out", str(out))
    assert (early.code, "before the first state was saved" in early.err) == (130, True)
    out.mkdir()
    (out / "training_state.pt").write_bytes(b"saved")
    stopped = m3("train", "x.toml", "--set", 'a=["x y"]', "--out", str(out))
    assert stopped.code == 130
    told = f"go on with: m3search train x.toml '--set=a=[\"x y\"]' --out={out} --resume"
    assert told in stopped.err
    monkeypatch.setenv("WORLD_SIZE", "8")  # alone it would be refused: its processes drop out apart
    for rank, said in (("0", ["interrupted; go on with the same command and --resume"]), ("3", [])):
        monkeypatch.setenv("RANK", rank)
        stopped = m3("train", "x.toml", "--out", str(out))
        told = [line for line in stopped.err.splitlines() if "interrupted" in line]
        assert (stopped.code, told) == (130, said)
    wrong = m3("train", "x.toml", "--set", "stepz=1")
    assert (wrong.code, "Did you mean 'steps'?" in wrong.err) == (1, True)
