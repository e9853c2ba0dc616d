"""Evaluation: runs x judgements -> measures, and sets x rows -> a report folder.

measures    `evaluate`: what a run is worth
suite       what a set is and how it is run
layouts     where the files of a set lie in its folder
loading     sets from folders, TOML suites and names
presets     the evaluations of the paper: how it ran them, and its values
sources     data sets by name, fetched from where they are published
collection  one set's files, checked
answers     whether a passage answers a question
lexical     lexical weights rounded up to hundredths
baselines   which BM25: bm25, with words and languages, or lucene, through java
components  what each mode says of the candidates, from which all rows are made
keys        what decides what a corpus and its queries are encoded to
cache       the folder in which that is kept for the next evaluation
encodings   the queries of a set in it
shared_texts  documents of several sets, encoded once
engine      a set's index and queries, made or taken from the cache
latency     what each stage of a search takes
experiment  `evaluate_sets`: an index, one search and a run for each row of each set
versions    with what that was made
results     what was found: the measures of each set, and their means
published   what was found beside published values
significance  which differences between rows are more than luck
comparing   two rows side by side, and the queries that they part on
tuning      weights of the modes, chosen from component scores
report      the folder that an evaluation leaves
tables      what its report.md says
html        its report.html, with style
charts      which plots that has, from figures, the numbers that it keeps of each set
plots       the plots themselves, with heat and svg
"""

from m3search.evaluation.engine import Engine
from m3search.evaluation.experiment import evaluate_sets
from m3search.evaluation.loading import load_sets
from m3search.evaluation.measures import Report, evaluate
from m3search.evaluation.report import ReportFolder
from m3search.evaluation.results import Experiment, SetResult
from m3search.evaluation.suite import EvaluationSet

__all__ = [
    "Engine",
    "EvaluationSet",
    "Experiment",
    "Report",
    "ReportFolder",
    "SetResult",
    "evaluate",
    "evaluate_sets",
    "load_sets",
]
