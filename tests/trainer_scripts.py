"""The scripts of trainer/ for their tests: found by path, run as their users run them."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from m3search.cli.ending import run_script

TRAINER = Path(__file__).parent.parent / "trainer"
if str(TRAINER) not in sys.path:
    sys.path.insert(0, str(TRAINER))

Record = dict[str, Any]


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def write(path: Path, records: Iterable[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path) -> list[Record]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.splitlines()]


class Runner:
    """Runs the `main` of a script and reads the report that it prints."""

    def __init__(self, module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        self.module, self._capsys = module, capsys

    def __call__(self, *arguments: object) -> Record:
        self._capsys.readouterr()
        self.module.main([str(each) for each in arguments])
        return json.loads(self._capsys.readouterr().out)

    def fail(self, *arguments: object) -> str:
        """What a failing run says: the error that the script exits with, or of its usage."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_script(lambda: self.module.main([str(each) for each in arguments]))
        assert ended.value.code in (1, 2)
        return self._capsys.readouterr().err
