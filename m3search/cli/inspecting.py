"""`m3search info`: what an index or a checkpoint is, and whether it is sound."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3search.cli.options import JsonOption
from m3search.cli.output import print_error, print_fields, print_json, readable_bytes
from m3search.errors import ArtifactError

if TYPE_CHECKING:
    from m3search.stores.manifest import Layout, Manifest

CHECKPOINT_FILE = "config.json"


def show_info(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="The folder of an index or of a checkpoint.", show_default=False
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and check it; 1 if one is damaged.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show an index or a checkpoint. With --verify also what of it is damaged."""
    if (path / CHECKPOINT_FILE).is_file():
        _show_checkpoint(path, json)
    elif path.is_dir():
        _show_index(path, verify, json)
    else:
        raise ArtifactError(
            str(path),
            expected="the folder of an index or of a checkpoint",
            found="a file" if path.exists() else "nothing at this path",
            remedy="Check the path.",
        )


def _show_index(path: Path, verify: bool, json: bool) -> None:
    """The manifest, whatever else is damaged."""
    from m3search.stores.snapshot import find_damages

    manifest, damages = find_damages(path, read=verify)
    if json:
        print_json(manifest.describe() | ({"damages": damages} if verify or damages else {}))
    else:
        state = {"verified": "damaged" if damages else "sound"} if verify or damages else {}
        print_fields(
            {
                "index": path,
                "documents": manifest.documents,
                **({} if manifest.complete else {"complete": "no: the build was interrupted"}),
                **_passage_fields(manifest),
                "deleted rows": manifest.rows - manifest.live_rows,
                "segments": len(manifest.segments),
                **_model_fields(asdict(manifest.model)),
                "weights": "{:g}, {:g}, {:g}".format(*manifest.fusion_weights),
                "title template": repr(manifest.title_template),
                "stored": _stored(manifest.layout),
                "truncated": manifest.truncated,
                **{
                    f"bytes {store}": readable_bytes(size)
                    for store, size in manifest.bytes_by_store().items()
                },
                **state,
            }
        )
    for damage in damages:
        print_error(damage)
    if damages:
        raise typer.Exit(1)


def _stored(layout: Layout) -> str:
    pooled = f", {layout.multi_pooling} vectors as one" if layout.multi_pooling > 1 else ""
    dense, sparse, multi = layout.dense_codec, layout.sparse_codec, layout.multi_codec
    return f"dense {dense}, sparse {sparse}, multi {multi}{pooled}"


def _passage_fields(manifest: Manifest) -> dict[str, object]:
    tokens, overlap = manifest.layout.chunk, manifest.layout.chunk_overlap
    if not tokens:
        return {}
    return {"passages": f"{manifest.live_rows} of at most {tokens} tokens, {overlap} shared"}


def _show_checkpoint(path: Path, json: bool) -> None:
    """A checkpoint is read whole, with --verify or without: loading is the check."""
    from m3search.encoder import Encoder
    from m3search.model.checkpoint import read_info

    identity = asdict(Encoder.load(path, device="cpu").identity)
    info = asdict(read_info(path))
    if json:
        print_json({"checkpoint": str(path), **identity, "step": info["step"],
                    "training": info["training"]})  # fmt: skip
        return
    trained: dict[str, Any] = {"trained": f"{info['step']} steps"} if info["step"] else {}
    print_fields({"checkpoint": path, **_model_fields(identity), **trained})


def _model_fields(identity: dict[str, Any]) -> dict[str, object]:
    mcls = ", mcls" if identity["mcls"] else ""
    return {
        "model": identity["name"],
        "fingerprint": identity["fingerprint"],
        "vectors": f"dense {identity['dim']}, sparse {identity['vocabulary']} terms, "
        f"multi {identity['multi_dim']}",
        "maximum length": f"{identity['max_length']} tokens, {identity['pooling']} pooling{mcls}",
    }
