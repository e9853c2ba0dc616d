"""How many terms of a passage have a lexical weight, language by language.

    python eval/benchmarks/lexical_terms.py DATA/text.*.jsonl.gz

A head that died has none; one that learned nothing has all of them, with equal weights. Of each
file (JSON lines with a text, named after its language as in text.sw.jsonl.gz) the first --passages
texts of 30 to 200 tokens are encoded. The JSON on stdout holds for each file the least, the median
and the most active terms, the tokens beside them, and how far weights differ within a passage: the
mean over passages of the standard deviation divided by the mean.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from m3search.cli.ending import run_script
from m3search.encoder import Encoder
from m3search.lines import read_lines
from m3search.records import Encoded

LEAST_TOKENS, MOST_TOKENS = 30, 200


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--model", help="a checkpoint; by default the embedded m3-mini")
    parser.add_argument("--passages", type=int, default=50, help="of each file, at most")
    asked = parser.parse_args()
    encoder = Encoder.load(asked.model)
    report = {}
    for file in asked.files:
        texts = list(passages(file, encoder, asked.passages))
        if texts:
            report[file.name] = describe(encoder.encode(texts))
    print(json.dumps(report, indent=1))


def passages(file: Path, encoder: Encoder, most: int) -> Iterator[str]:
    """The first texts of the file that are neither short nor long."""
    found = 0
    for _, line in read_lines(file):
        text = json.loads(line).get("text", "")
        if LEAST_TOKENS <= len(encoder.tokens(text)) <= MOST_TOKENS:
            yield text
            found += 1
            if found == most:
                return


def describe(encoded: Encoded) -> dict[str, Any]:
    """What the lexical weights of the texts look like."""
    active = np.diff(encoded.sparse.indptr)
    rows = np.split(encoded.sparse.data, encoded.sparse.indptr[1:-1])
    spread = [float(row.std() / row.mean()) for row in rows if len(row)]
    return {
        "passages": len(encoded),
        "tokens": float(np.median([len(vectors) for vectors in encoded.multi])),
        "terms_least": int(active.min()),
        "terms_median": float(np.median(active)),
        "terms_most": int(active.max()),
        "spread": round(float(np.mean(spread)), 3) if spread else 0.0,
    }


if __name__ == "__main__":
    run_script(main)
