"""Fixtures shared by all tests: the sample collection and a small M3 checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

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
