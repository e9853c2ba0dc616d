"""What a report says of its making: the sets, their settings, models, machine and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from m3search.evaluation.baselines import WORDS
from m3search.evaluation.markdown import Table
from m3search.evaluation.results import Experiment
from m3search.evaluation.suite import BASELINES
from m3search.records import MODES
from m3search.stores.manifest import DEFAULT_LAYOUT


def sets_table(experiment: Experiment) -> Table:
    """How large each set is, and what its index took."""
    header = ("documents", "queries", "judgements", "SHA-256 of these", "BM25 language")
    lines = [["set", *header, "index seconds", "index MB", "SHA-256 of the index"]]
    for each in experiment.sets:
        known = each.details.get("fingerprints", {})
        sums = [known[name][:8] for name in ("corpus", "queries", "judgements") if name in known]
        counts = each.details["counts"]
        bm25 = next((each.details[row] for row in BASELINES if row in each.details), None)
        language = f"{bm25['language'] or 'none'}, {bm25['language_origin']}" if bm25 else ""
        seconds = each.details["seconds"].get("index")
        size = sum(each.details.get("bytes", {}).values()) / 1e6
        lines.append(
            [
                each.name,
                str(counts["documents"]),
                str(counts["queries"]),
                str(counts["judgements"]),
                ", ".join(sums),
                language,
                f"{seconds:.1f}" if seconds is not None else "",
                f"{size:.1f}" if size else "",
                known.get("index", "")[:8],
            ]
        )
    notes = [
        _truncation(experiment), _shared(experiment), _absent(experiment), _unstemmed(experiment)
    ]  # fmt: skip
    return Table("Sets", lines, "\n".join(note for note in notes if note))


def settings_table(experiment: Experiment) -> Table:
    """What each set was run with, defaults included."""
    names = ("split", "k", "depth", "missing", "candidates", "max_length", "title_template")
    lines = [["set", *(name.replace("_", " ") for name in names), "weights"]]
    for each in experiment.sets:
        settings = each.details["settings"] | {
            "title_template": json.dumps(each.details["settings"]["title_template"]),
            "max_length": each.details["settings"]["max_length"] or "",
        }
        weights = [
            f"{row} {_weights(by_mode)}"
            for row, by_mode in settings["weights"].items()
            if len(by_mode) > 1
        ]
        lines.append([each.name, *(str(settings[name]) for name in names), "; ".join(weights)])
    note = "Weights are those of dense, sparse and multi; a mode alone weighs 1."
    notes = "\n".join([note, *_row_settings(experiment)])
    return Table("Settings", lines, notes, code="title template")


def _row_settings(experiment: Experiment) -> list[str]:
    """A line for each set with rows of settings or of runs of their own, or other weights."""
    notes = []
    for each in experiment.sets:
        settings = each.details["settings"]
        parts = [
            f"{row} " + ", ".join(f"{key} {value}" for key, value in own.items())
            for row, own in settings.get("row_settings", {}).items()
            if own
        ]
        if settings.get("lexical_weights", "float") != "float":
            parts.append(f"lexical weights {settings['lexical_weights']}")
        usual = DEFAULT_LAYOUT.multi_codec
        if (codec := settings.get("multi_codec", usual)) != usual:
            parts.append(f"token vectors in {codec}")
        if settings.get("exact"):
            parts.append("every document looked at")
        if settings.get("drop_same_id"):
            parts.append("a document with the id of the query left out")
        parts += [_fused(row, made) for row, made in each.details.get("fused", {}).items()]
        if parts:
            notes.append(f"Of {each.name}: {'; '.join(parts)}.")
    return notes


def _fused(row: str, made: Mapping[str, Any]) -> str:
    """What a row of other rows is made of."""
    weighed = zip(made["rows"], made["weights"], strict=True)
    by = f"rank (constant {made['constant']:g})" if made["by"] == "rank" else "score"
    return f"{row} by {by}: " + ", ".join(f"{weight:g} {part}" for part, weight in weighed)


def _weights(by_mode: Mapping[str, float]) -> str:
    return ", ".join(f"{by_mode[mode]:g}" if mode in by_mode else "-" for mode in MODES)


def _truncation(experiment: Experiment) -> str:
    """One line: how much of each set the model did not read to its end."""
    shown = []
    for each in experiment.sets:
        if cut := each.details.get("truncated"):
            shown.append(f"{each.name} {cut['documents']} documents, {cut['queries']} queries")
    return f"Cut at the maximum length: {'; '.join(shown)}." if shown else ""


def _shared(experiment: Experiment) -> str:
    """One line: what the seconds of an index leave out."""
    shown = [
        f"{each.name} {count}" for each in experiment.sets if (count := each.details.get("shared"))
    ]
    if not shown:
        return ""
    return f"Documents not encoded for the index, as they had been before: {'; '.join(shown)}."


def _absent(experiment: Experiment) -> str:
    """One line: for how many queries of each set a row has no document, so that they count 0."""
    shown = [
        f"{each.name} {row} {count}"
        for each in experiment.sets
        for row, count in each.report.absent.items()
        if count
    ]
    return f"Queries without a document, which count 0: {'; '.join(shown)}." if shown else ""


def _unstemmed(experiment: Experiment) -> str:
    """One line: the sets on which a BM25 takes words as they are written."""
    shown = []
    for row in BASELINES:
        plain = [each.name for each in experiment.sets if _is_plain(each.details.get(row))]
        if plain:
            shown.append(f"{row} of {', '.join(plain)}")
    return f"Without stemmer and stop words of the language: {'; '.join(shown)}." if shown else ""


def _is_plain(bm25: Mapping[str, Any] | None) -> bool:
    if bm25 is None or bm25.get("analyzer", WORDS) != WORDS:
        return False
    return not bm25.get("stemmer") and not bm25.get("stop_words")


def provenance(experiment: Experiment) -> dict[str, str]:
    """Models, baselines, other systems' runs, and what the experiment says of its making."""
    models: dict[str, str] = {}
    baselines: dict[str, dict[str, str]] = {}
    files: dict[str, str] = {}
    for each in experiment.sets:
        files |= each.details.get("run_files", {})
        if model := each.details.get("model"):
            models[each.name] = (
                f"{model['name']} ({model['fingerprint'][:12]}), {model['max_length']} tokens"
            )
            if precision := each.details.get("precision"):
                models[each.name] += f", {precision}"
        for row in BASELINES:
            if bm25 := each.details.get(row):
                settings = f"k1 {bm25['k1']}, b {bm25['b']}, {bm25['variant']} variant"
                of_sets = baselines.setdefault(row, {})
                of_sets[each.name] = f"{bm25['implementation']}, {settings}"
    details = _by_set("Model", models)
    for row, of_sets in baselines.items():
        details |= _by_set(row.replace("bm25", "BM25"), of_sets)
    if files:
        details["Runs from files"] = _pairs(files)
    for name, value in experiment.provenance.items():
        details[name.capitalize()] = _pairs(value) if isinstance(value, Mapping) else str(value)
    return details


def _pairs(found: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _by_set(what: str, found: Mapping[str, str]) -> dict[str, str]:
    """One line for all sets where they agree, else one for each set."""
    if len(set(found.values())) == 1:
        return {what: next(iter(found.values()))}
    return {f"{what} of {name}": value for name, value in found.items()}
