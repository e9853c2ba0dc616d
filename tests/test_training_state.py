"""The training state under kills: what is read back is one whole state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from m3search.training.recipe import Data, Optimiser, Recipe, Source, Start
from m3search.training.state import load_state, save_state

CHILD = """
import io, sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[3])
from test_training_state import save

def hang(*_):
    print("now", flush=True)
    time.sleep(120)

def save_half(state, file):
    buffer = io.BytesIO()
    whole(state, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    hang()

out, moment = Path(sys.argv[1]), sys.argv[2]
save(out, 1)
if moment == "while it is written":
    whole, torch.save = torch.save, save_half
else:
    Path.replace = hang
save(out, 2)
"""


def make_parts() -> tuple[torch.nn.Linear, torch.optim.Optimizer, Recipe]:
    model = torch.nn.Linear(64, 64)
    recipe = Recipe("finetune", Start("x"), Data((Source("*"),)), Optimiser(steps=9))
    return model, torch.optim.AdamW(model.parameters()), recipe


def save(out: Path, step: int) -> None:
    """The state of a step, every weight of which is the step's number."""
    model, optimiser, recipe = make_parts()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
    save_state(out, step, model, optimiser, recipe, [])


@pytest.mark.parametrize("moment", ["while it is written", "before it takes its place"])
def test_a_kill_while_the_state_is_saved_leaves_the_one_before(tmp_path: Path, moment: str) -> None:
    arguments = [sys.executable, "-c", CHILD, str(tmp_path), moment, str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        reached = child.stdout.readline()
        child.kill()
    assert reached == "now\n"
    check_state(tmp_path, 1)
    save(tmp_path, 3)  # over what the kill left
    check_state(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["training_state.pt"]


def check_state(out: Path, step: int) -> None:
    model, optimiser, recipe = make_parts()
    assert load_state(out, model, optimiser, recipe, []) == step
    assert all(bool((parameter == step).all()) for parameter in model.parameters())
