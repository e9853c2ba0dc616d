"""Tell which sources of recipes a folder has no file for, before hours go into the first of them.

    python trainer/missing_sources.py DATA trainer/recipes/mini-*.toml --made "bodies-*" "rough-*"

What a stage before makes (--made, as globs of names) is not looked for. Prints what is missing as
JSON, and ends with 1 where anything is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from m3search.cli.ending import run_script
from m3search.training.loop import read_recipe


def main() -> None:
    """Looks as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of the training files")
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--made", nargs="*", default=[], metavar="GLOB", help="made later on")
    asked = parser.parse_args()
    missing = {
        recipe.name: found
        for recipe in asked.recipes
        if (found := list(missing_of(recipe, asked.data, asked.made)))
    }
    print(json.dumps(missing, indent=1))
    if missing:
        count = sum(map(len, missing.values()))
        print(f"error: {asked.data}: no file for {count} sources of the recipes", file=sys.stderr)
        sys.exit(1)


def missing_of(recipe: Path, data: Path, made: Sequence[str]) -> Iterator[str]:
    """The globs of a recipe's sources that match no file of the folder, and nothing made later."""
    for source in read_recipe(recipe).data.sources:
        if any(fnmatch(source.files, each) for each in made):
            continue
        if not any(data.glob(source.files)):
            yield source.files


if __name__ == "__main__":
    run_script(main)
