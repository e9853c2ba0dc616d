"""From the name of a model to the folder of its checkpoint."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from m3search.errors import ArtifactError, ConfigError

DEFAULT_MODEL = "m3-mini"
EMBEDDED = (DEFAULT_MODEL,)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_UNNEEDED = ("*.onnx", "onnx/*", "*.msgpack", "*.h5", "*.ot", "openvino/*", "imgs/*", "*.jsonl")


def resolve(name: str | Path | None, setting: str | None = None) -> tuple[str, Path]:
    """The canonical name of a model and the folder that holds it.

    setting: where it is named, such as "start.checkpoint", for the errors; None is the model of a
    search, which has a default.

    None is the embedded default; then an embedded name, an existing folder, a hub name
    (``owner/model``, downloaded once through huggingface_hub) are tried in this order.
    """
    if name is None or str(name) in EMBEDDED:
        return DEFAULT_MODEL, Path(str(resources.files("m3search") / "models" / DEFAULT_MODEL))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve()), path.resolve()
    if path.exists():
        raise ArtifactError(
            str(path),
            expected="the folder of a checkpoint",
            found="a file",
            remedy="Give the folder that holds config.json.",
        )
    if _HUB_NAME.fullmatch(str(name)) and not str(name).startswith("."):
        return str(name), _download(str(name), setting)
    default = f"one of {', '.join(EMBEDDED)}, a folder, or a hub name such as BAAI/bge-m3"
    raise ConfigError(
        setting or "model",
        expected="a folder, or a name of the Hugging Face hub (owner/model)"
        if setting
        else default,
        found=repr(str(name)),
        remedy="Check the spelling; no such folder exists.",
    )


def _download(name: str, setting: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, ignore_patterns=list(_UNNEEDED)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        remedy = (
            "Go online once to download it, or copy the checkpoint to a folder and give its path"
        )
        default = "" if setting else "; without --model the embedded m3-mini works offline"
        raise ArtifactError(
            f"{setting} = {name!r}" if setting else name,
            expected="a local folder of this name, or the model on the Hugging Face hub",
            found=f"neither ({type(error).__name__}: {first})",
            remedy=f"{remedy}{default}.",
        ) from error
