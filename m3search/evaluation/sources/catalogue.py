"""Which data sets can be had by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial

from m3search.errors import ConfigError
from m3search.evaluation.sources.hub import (
    read_beir,
    read_miracl,
    read_mkqa,
    read_mldr,
    read_narrativeqa,
)
from m3search.evaluation.sources.irds import find_irds
from m3search.evaluation.sources.source import Source

HUB = "huggingface.co/datasets"
MIRACL = (
    "ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th",
    "yo", "zh",
)  # fmt: skip
MLDR = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "th", "zh")
MKQA = (
    "ar", "da", "de", "en", "es", "fi", "fr", "he", "hu", "it", "ja", "km", "ko", "ms", "nl", "no",
    "pl", "pt", "ru", "sv", "th", "tr", "vi", "zh_cn", "zh_hk", "zh_tw",
)  # fmt: skip
BEIR = (
    "arguana", "climate-fever", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco",
    "nfcorpus", "nq", "quora", "scidocs", "scifact", "trec-covid", "webis-touche2020",
)  # fmt: skip
NARRATIVEQA = "narrativeqa"
NAMES: Mapping[str, tuple[str, ...]] = {"beir": BEIR, "miracl": MIRACL, "mkqa": MKQA, "mldr": MLDR}
"""what can follow the kind of a data set"""


def kinds_of_sources() -> list[str]:
    """The names that there are, in short, for messages."""
    kinds = (f"{kind}/<{'name' if kind == 'beir' else 'lang'}>" for kind in NAMES)
    return [*kinds, NARRATIVEQA, "ir:<id of ir_datasets>"]


def is_source_name(name: str) -> bool:
    """Whether a name is of a kind that there is; `find_source` says whether it is one."""
    return name.startswith("ir:") or name == NARRATIVEQA or name.partition("/")[0] in NAMES


def find_source(name: str) -> Source:
    """The data set of a name; ConfigError, with near names, where there is none."""
    if name.startswith("ir:"):
        return find_irds(name)
    if name == NARRATIVEQA:
        return _narrativeqa()
    kind, _, rest = name.partition("/")
    if rest in NAMES.get(kind, ()):
        return _MAKERS[kind](rest)
    every = [NARRATIVEQA, *(f"{each}/{name}" for each, names in NAMES.items() for name in names)]
    near = difflib.get_close_matches(name, every, n=3)
    raise ConfigError(
        name,
        expected=f"one of {', '.join(kinds_of_sources())}",
        found="no data set of that name",
        remedy=f"Did you mean {' or '.join(near)}?" if near else "Choose one of these.",
    )


def _miracl(language: str) -> Source:
    read = partial(read_miracl, language, "dev")
    return Source(f"miracl/{language}", f"{HUB}/miracl/miracl", read, "dev", language)


def _mldr(language: str) -> Source:
    read = partial(read_mldr, language, "test")
    return Source(f"mldr/{language}", f"{HUB}/Shitao/MLDR", read, "test", language)


def _mkqa(language: str) -> Source:
    return Source(
        f"mkqa/{language}",
        f"{HUB}/Shitao/bge-m3-data",
        partial(read_mkqa, language),
        language="en",
        measures=("AnswerRecall@100", "AnswerRecall@20"),
        shared_corpus="mkqa/corpus.jsonl.gz",
    )


def _beir(name: str) -> Source:
    split = "dev" if name == "msmarco" else "test"
    file = {"dev": "validation"}.get(split, split)  # as the hub calls it
    return Source(
        f"beir/{name}",
        f"{HUB}/BeIR/{name}",
        partial(read_beir, name, file),
        split,
        "en",
        drop_same_id=True,  # as in BEIR's own evaluation: arguana's queries are in its corpus
    )


def _narrativeqa() -> Source:
    read = partial(read_narrativeqa, "test")
    return Source(NARRATIVEQA, f"{HUB}/deepmind/narrativeqa", read, language="en")


_MAKERS: Mapping[str, Callable[[str], Source]] = {
    "beir": _beir,
    "miracl": _miracl,
    "mkqa": _mkqa,
    "mldr": _mldr,
}
