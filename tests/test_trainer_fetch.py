"""The start weights put into a folder, and into none that nobody named."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from trainer_scripts import script

fetch: Any = script("fetch_minilm")


def test_asking_for_help_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, code in ((["--help"], 0), (["-h"], 0), ([], 2), (["a", "b"], 2)):
        with pytest.raises(SystemExit) as ended:
            fetch.main(arguments)
        assert ended.value.code == code
    assert "FOLDER" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_the_package_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "model").mkdir(parents=True)
    for name in (*fetch.WANTED, "other"):
        (package / "model" / name).write_text(name)
    spec = ModuleSpec(fetch.PACKAGE, None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(fetch, "find_spec", lambda _: spec)
    fetch.main([str(tmp_path / "to" / "start")])
    found = {path.name: path.read_text() for path in (tmp_path / "to" / "start").iterdir()}
    assert found == {name: name for name in fetch.WANTED}
    monkeypatch.setattr(fetch, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"pip install -e"):
        fetch.main([str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
