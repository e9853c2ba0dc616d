"""What a checkpoint folder says beside its weights: `m3.json`, and the files of other loaders."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from m3search.errors import ArtifactError, ConfigError
from m3search.model.damage import writing
from m3search.model.modeling import POOLINGS, M3Model, Pooling
from m3search.records import MODES, WordTerms, without_newer_defaults, word_terms_of

FORMAT_VERSION = 1
FULL_DISK = "Free space on the disk, then write it again; a training does with --resume."
_POOLING_FILE = "1_Pooling/config.json"
HEAD_FILES = {"sparse": "sparse_linear.pt", "multi": "colbert_linear.pt"}
TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model", "spiece.model", "vocab.txt")
_DECIDING = (  # globs of the files that decide the vectors
    "config.json", "m3.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", *TOKENIZER_FILES, *HEAD_FILES.values(),
)  # fmt: skip

_POSITIONS_BEHIND_PADDING = frozenset({
    "camembert", "data2vec-text", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm",
    "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
"""types of encoders whose first token has the position behind the padding id, not 0"""


@dataclass(frozen=True)
class CheckpointInfo:
    """What `m3.json` says beside the weights."""

    pooling: Pooling
    max_length: int
    """tokens, special ones included, that the model was trained for"""
    step: int = 0
    """optimiser steps of the last training stage"""
    training: dict[str, Any] = field(default_factory=dict)
    """recipe and data fingerprints, empty where unknown"""
    fusion_weights: tuple[float, float, float] | None = None
    """of dense, sparse and multi, that suit its heads; None where it says nothing"""
    word_terms: WordTerms = "none"
    """what are terms beside the pieces (`m3search.model.words`)"""
    idf: bool = False
    """whether searches multiply lexical weights by how rare their terms are in the index"""


def read_info(folder: Path) -> CheckpointInfo:
    """`m3.json`, or what the other files of a bge-m3 style folder say in its place."""
    path = folder / "m3.json"
    if not path.exists():
        return CheckpointInfo(_foreign_pooling(folder), _foreign_max_length(folder))
    record = _read_json(path)
    version = record.get("format_version")
    if record.get("format") != "m3search checkpoint" or version != FORMAT_VERSION:
        raise ArtifactError(
            str(path),
            expected=f"an m3search checkpoint of format version {FORMAT_VERSION}",
            found=f"format {record.get('format')!r}, version {version!r}",
            remedy="Load it with the m3search release that wrote it, or write it again.",
        )
    pooling, max_length = record.get("pooling"), record.get("max_length")
    if pooling not in POOLINGS or not isinstance(max_length, int) or max_length < 3:
        raise ArtifactError(
            str(path),
            expected=f"pooling one of {', '.join(POOLINGS)} and max_length of at least 3",
            found=f"pooling {pooling!r}, max_length {max_length!r}",
            remedy="Repair the file or copy the checkpoint again.",
        )
    positions = count_positions(_read_json(folder / "config.json"))
    if max_length > positions:
        raise ArtifactError(
            str(path),
            expected=f"max_length of at most {positions}, the positions of config.json",
            found=str(max_length),
            remedy="Copy both files from one checkpoint.",
        )
    return CheckpointInfo(
        pooling,
        max_length,
        int(record.get("step", 0)),
        dict(record.get("training", {})),
        _fusion_weights(path, record.get("fusion_weights")),
        _word_terms(path, record.get("word_terms", "none")),
        _idf(path, record.get("idf", False)),
    )


def _word_terms(path: Path, found: Any) -> WordTerms:
    stated = word_terms_of(found)
    if stated is None:
        raise ArtifactError(
            str(path),
            expected=f"word_terms one of {', '.join(get_args(WordTerms))}",
            found=repr(found),
            remedy="Repair the file or copy the checkpoint again.",
        )
    return stated


def _idf(path: Path, found: Any) -> bool:
    if not isinstance(found, bool):
        raise ArtifactError(
            str(path),
            expected="idf true or false",
            found=repr(found),
            remedy="Repair the file or copy the checkpoint again.",
        )
    return found


def _fusion_weights(path: Path, found: Any) -> tuple[float, float, float] | None:
    if found is None:
        return None
    if (
        isinstance(found, list)
        and len(found) == len(MODES)
        and all(type(weight) in (int, float) and 0 <= weight < math.inf for weight in found)
        and any(found)
    ):
        dense, sparse, multi = map(float, found)
        return dense, sparse, multi
    raise ArtifactError(
        str(path),
        expected="fusion_weights of three numbers from 0 up, not all 0, or none",
        found=repr(found),
        remedy="Repair the file or copy the checkpoint again.",
    )


def stated_heads(folder: Path) -> tuple[str, ...]:
    """Modes whose heads belong to the folder: those that `m3.json` names, or both if it has one."""
    if (folder / "m3.json").exists():
        return tuple(
            mode for mode in HEAD_FILES if mode in _read_json(folder / "m3.json").get("heads", ())
        )
    has_one = any((folder / name).exists() for name in HEAD_FILES.values())
    return tuple(HEAD_FILES) if has_one else ()


def write_info(
    folder: Path, model: M3Model, info: CheckpointInfo, heads: Collection[str] = tuple(HEAD_FILES)
) -> None:
    """`m3.json`, and the files by which sentence-transformers finds pooling and normalisation."""
    shapes = {"sparse": [1, model.dim], "multi": [model.multi_dim, model.dim]}
    record = {
        "format": "m3search checkpoint",
        "format_version": FORMAT_VERSION,
        "heads": {mode: shape for mode, shape in shapes.items() if mode in heads},
    }
    write_json(folder / "m3.json", record | without_newer_defaults(asdict(info)))
    module = "sentence_transformers.models"
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"{module}.{name}"}
            for i, (path, name) in enumerate(parts)
        ],
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    pooling = {
        "word_embedding_dimension": model.dim,
        "pooling_mode_cls_token": info.pooling == "cls",
        "pooling_mode_mean_tokens": info.pooling == "mean",
    }
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "2_Normalize" / "config.json", {})
    lengths = {"max_seq_length": info.max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", lengths)
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})


def deciding_files(folder: Path) -> list[Path]:
    """The files there that decide the vectors: configuration, tokenizer, heads, weights."""
    named = [*(folder / name for name in _DECIDING), *weight_files(folder)]
    return [path for path in named if path.exists()]


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights from, shards in their order."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def fingerprint(folder: Path) -> str:
    """SHA-256 of every file that decides the vectors: configuration, tokenizer, weights, heads."""
    digest = hashlib.sha256()
    for path in deciding_files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}:{content}\n".encode())
    return digest.hexdigest()


def check_folder(folder: Path, modes: Collection[str] = MODES) -> tuple[str, ...]:
    """Modes whose heads the folder has.

    ArtifactError without a configuration, without the heads of `modes`, or without one that
    belongs to the folder.
    """
    if not (folder / "config.json").is_file():
        has = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
        raise ArtifactError(
            str(folder),
            expected="a checkpoint with config.json",
            found=f"a folder with {', '.join(has)}" if has else "no such file",
            remedy="Give a folder in the layout of BAAI/bge-m3, or of a Hugging Face encoder.",
        )
    stated = stated_heads(folder)
    needed = tuple(mode for mode in HEAD_FILES if mode in modes or mode in stated)
    lost = [mode for mode in needed if not (folder / HEAD_FILES[mode]).is_file()]
    if lost:
        raise _without_heads(folder, stated, lost)
    return needed


def _without_heads(folder: Path, stated: Collection[str], lost: Sequence[str]) -> ArtifactError:
    """The error of a folder in which heads are lost, or were never trained."""
    ours = (folder / "m3.json").exists()
    if ours:
        read_info(folder)  # raises where m3.json itself is what is wrong
    gone = [HEAD_FILES[mode] for mode in lost if mode in stated]
    if gone:
        return ArtifactError(
            str(folder),
            expected=f"an M3 checkpoint with {gone[0]}" + ", which its m3.json names" * ours,
            found="no such file",
            remedy="Copy the checkpoint again; if it was not written to its end, go on with the "
            "training that writes it (--resume).",
        )
    names = ", ".join(f'"{mode}"' for mode in lost)
    training = (
        f"Fine-tune from this folder (m3search train, start.checkpoint) with objective.modes = "
        f"[{names}] and start.fix_encoder = true, which trains what is missing and leaves the "
        "rest, or with all three modes"
        if ours
        else "A plain encoder becomes an M3 checkpoint by training its heads (m3search train)"
    )
    return ArtifactError(
        str(folder),
        expected=f"an M3 checkpoint with {' and '.join(HEAD_FILES[mode] for mode in lost)}",
        found=f"{' and '.join(('dense', *stated))}, and none of {' and '.join(lost)}",
        remedy=f"{training}. What it has is measured by m3search eval --rows "
        f"{','.join(('dense', *stated))}.",
    )


def check_pooling(folder: Path, pooling: str | None) -> Pooling:
    """How the folder's dense vectors are pooled: as given, else as its files say.

    ConfigError for another name than cls and mean, and for an encoder that says nothing.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise ConfigError.unknown("pooling", pooling, POOLINGS)
    says = (folder / "m3.json").exists() or (folder / _POOLING_FILE).exists()
    if pooling is None and not says and not stated_heads(folder):
        raise ConfigError(
            "pooling",
            expected=f"{' or '.join(POOLINGS)}, as {folder} was trained",
            found=f"none, and neither m3.json nor {_POOLING_FILE} in the folder",
            remedy="Say it: m3search eval --pooling mean suits most sentence encoders, cls those "
            "that were trained so, BERT and XLM-R; in Python Encoder.load(pooling=...).",
        )
    return pooling or read_info(folder).pooling


def write_json(path: Path, value: Any) -> None:
    """One JSON value, indented, in UTF-8."""
    with writing(path, remedy=FULL_DISK):
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _foreign_pooling(folder: Path) -> Pooling:
    path = folder / _POOLING_FILE
    if path.exists():
        config = _read_json(path)
        if config.get("pooling_mode_mean_tokens") or config.get("pooling_mode") == "mean":
            return "mean"
    return "cls"


def _foreign_max_length(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    positions = count_positions(_read_json(folder / "config.json"))
    stated = _read_json(path).get("max_seq_length") if path.exists() else None
    return min(positions, int(stated)) if stated else positions


def count_positions(config: dict[str, Any]) -> int:
    """Tokens that a backbone of this config.json has positions for."""
    positions = int(config.get("max_position_embeddings", 512))
    if config.get("model_type") in _POSITIONS_BEHIND_PADDING:
        padding = config.get("pad_token_id")
        positions -= (1 if padding is None else int(padding)) + 1
    return positions


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        problem = "" if isinstance(record, dict) else type(record).__name__
    except (OSError, ValueError) as error:
        record, problem = {}, str(error)
    if problem:
        raise ArtifactError(
            str(path),
            expected="a JSON object",
            found=problem,
            remedy="Copy the file again from the checkpoint it belongs to.",
        )
    return dict(record)
