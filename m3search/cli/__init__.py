"""The command line: `m3search index`, `query`, `eval`, `train` and what goes with them.

Results go to stdout, progress and messages to stderr. Exit status: 0 for success, 1 for an
`M3Error`, 2 for a wrong usage, 130 after Ctrl-C; a bug keeps its traceback.
"""

from m3search.cli.program import main

__all__ = ["main"]
