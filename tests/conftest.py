"""Fixtures that several files share: texts, small checkpoints, a recipe, a folder in memory."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from m3search.training.recipe import Recipe

# before torch is imported: tiny tensors on several threads wait for each other, most of all where
# other work goes on beside the tests
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test downloads

SAMPLE = Path(__file__).parent.parent / "eval" / "sample"


@pytest.fixture(scope="session")
def sample_texts() -> list[str]:
    """Every passage of the sample collection, in eight languages."""
    lines = (SAMPLE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    """A checkpoint in the layout of BAAI/bge-m3: random XLM-R weights, real tokenizer."""
    from tiny_models import write_xlm_roberta

    return write_xlm_roberta(tmp_path_factory.mktemp("models") / "tiny-m3", sample_texts)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    """A plain BERT encoder, as a training starts from; its vocabulary is that of the recipe."""
    from training_runs import write_backbone

    return write_backbone(tmp_path_factory.mktemp("bert"), sample_texts)


@pytest.fixture
def recipe(backbone: Path, tmp_path: Path) -> Recipe:
    """Six steps of fine-tuning, on pairs in the folder `data` of the test."""
    from training_runs import make_recipe

    return make_recipe(backbone, tmp_path / "data")


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of syncs and forks would wait for a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
