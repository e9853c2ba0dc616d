"""`make_mini.sh` runs its stages in order, each from the one before, and goes on after a kill."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TRAINER = Path(__file__).parent.parent / "trainer"
STAGES = ("distil", "contrastive", "finetune", "long")
COMMAND = """#!/usr/bin/env bash
# notes what it was asked, makes the folder that it is asked for, and dies where it is told to
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in *missing_sources*) exit 0 ;; esac
out="${@: -1}"
case "$*" in *title_body_pairs*) touch "$(dirname "$4")/$(basename "$4")"; exit 0 ;; esac
mkdir -p "$out"
touch "$out/made.gz"
case "$(basename "$0") $*" in m3search*) touch "$out/training_state.pt" ;; esac
case "$out" in *"$DIES"*) exit 1 ;; esac
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A place with stand-ins for the commands and a folder of training files."""
    for name in ("python", "m3search"):
        place = tmp_path / "bin" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(COMMAND)
        place.chmod(0o755)
    data = tmp_path / "training files"
    data.mkdir()
    for name in ("text.en", "tatoeba.de-en", "stories.fr-en", "squad.en"):
        (data / f"{name}.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    return tmp_path


def run(made: Path, dies: str = "nothing dies") -> tuple[int, list[str]]:
    log = made / "log"
    log.write_text("")
    path = f"{made / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [
            "bash",
            str(TRAINER / "make_mini.sh"),
            str(made / "training files"),
            str(made / "the out"),
        ],
        env=os.environ | {"PATH": path, "LOG": str(log), "DIES": dies},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, log.read_text().splitlines()


def trainings(lines: list[str]) -> list[str]:
    return [line.split("mini-")[1].split(".toml")[0] for line in lines if "m3search train" in line]


def test_stages_start_from_the_one_before(made: Path) -> None:
    code, lines = run(made)
    assert code == 0, lines
    assert "missing_sources.py" in lines[0]
    assert trainings(lines) == list(STAGES)
    starts = [
        line.split("start.checkpoint=")[1].split(" --set")[0] for line in lines if "train " in line
    ]
    out = str(made / "the out")
    assert starts == [f"{out}/{name}" for name in ("swapped", *STAGES[:-1])]
    assert all(f"distillation.teacher={out}/all-MiniLM-L6-v2" in x for x in lines if "train " in x)
    assert not any("--resume" in line for line in lines)
    swap = next(line for line in lines if "swap_vocabulary" in line)
    assert "stories.fr-en" in swap and "*" not in swap  # sets that are not there are left out
    assert sorted(p.name for p in (made / "the out").glob("*.partial")) == []
    assert "average_checkpoints" in lines[-1] and f"{out}/long " in lines[-1]
    assert lines[-1].endswith(f"{out}/m3-mini.partial")
    assert run(made) == (0, lines[:1])  # all is there


@pytest.mark.parametrize("stage", ["swapped", "contrastive"])
def test_what_was_killed_goes_on(made: Path, stage: str) -> None:
    code, lines = run(made, dies=f"{stage}.partial")
    assert code == 1 and f"{stage}.partial" in lines[-1]
    code, lines = run(made)
    assert code == 0
    assert trainings(lines) == list(STAGES[STAGES.index(stage) :] if stage in STAGES else STAGES)
    first = next(line for line in lines if "train " in line)
    assert ("--resume" in first) == (stage in STAGES)


def test_what_a_folder_lacks_is_told_before_the_first_stage(made: Path) -> None:
    recipe = made / "one.toml"
    source = '[[data.sources]]\nfiles = "{}"\n'
    names = ("squad.??.jsonl*", "laws.de.jsonl*", "bodies-*.jsonl*")
    recipe.write_text(
        'stage = "finetune"\n[start]\ncheckpoint = "x"\n[optimiser]\nsteps = 1\n'
        + "".join(source.format(name) for name in names)
    )
    command = [sys.executable, str(TRAINER / "missing_sources.py"), str(made / "training files")]
    command += [str(recipe), "--made", "bodies-*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)) == (1, {"one.toml": ["laws.de.jsonl*"]})
    assert "no file for 1 sources of the recipes" in done.stderr
    (made / "training files" / "laws.de.jsonl").write_text("{}\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_last_two_recipes_read_the_same_passages() -> None:
    """All but the long ones, which one of them adds in front."""
    sources = {
        name: tomllib.loads((TRAINER / "recipes" / f"mini-{name}.toml").read_text())["data"][
            "sources"
        ]
        for name in ("finetune", "long")
    }
    count = len(sources["finetune"])
    assert sources["long"][-count:] == sources["finetune"]
    assert all("-long" in source["files"] for source in sources["long"][:-count])
