"""`m3search mine`: training pairs get hard negatives from an index, a corpus or their own texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3search.cli.candidates import Pool, check_pool, open_source, parse_mode
from m3search.cli.options import (
    JsonOption,
    ModelOption,
    WeightsOption,
    parse_weights,
)
from m3search.cli.output import print_json, print_note, progress_bar
from m3search.errors import ConfigError

if TYPE_CHECKING:
    from m3search.training.mining.negatives import PairScorer, Tally
    from m3search.training.mining.records import Record
    from m3search.training.mining.rules import MiningSettings


def mine_negatives(
    pairs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PAIRS...",
            help="Training files, JSON lines with query and pos; .gz and .zst are read as they "
            "are.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR",
            help="One file for all lines (.gz is compressed), or a folder (it is there, or the "
            "name ends in /) for a file of each name.",
            show_default=False,
        ),
    ],
    index: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take negatives from this index.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Take negatives from this corpus, or from that of a set's folder; without it and "
            "--index, from the texts of PAIRS.",
        ),
    ] = None,
    model: ModelOption = None,
    mode: Annotated[
        str, typer.Option(metavar="MODE", help="dense, sparse, multi, dense+sparse, all or bm25.")
    ] = "dense",
    bm25: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The BM25 of that mode: bm25s, the default, or lucene (pip install "
            "'m3search[bm25]').",
        ),
    ] = None,
    weights: WeightsOption = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens per text of an index that is made for mining; by default all that the "
            "model reads. Not for --mode bm25, which reads all words, nor with --index.",
        ),
    ] = None,
    ranks: Annotated[
        str,
        typer.Option(metavar="A-B", help="Skip the best A candidates, take those up to rank B."),
    ] = "10-210",
    negatives: Annotated[int, typer.Option(metavar="N", help="Negatives a query, at most.")] = 15,
    margin: Annotated[
        float | None,
        typer.Option(metavar="X", help="A negative scores at most the positive's score less X."),
    ] = None,
    relative_margin: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="The same with X as a share of the positive's score, such as 0.05."
        ),
    ] = None,
    max_score: Annotated[
        float | None, typer.Option(metavar="X", help="A negative scores at most X.")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A cross-encoder's folder or hub name."),
    ] = None,
    reranker_threshold: Annotated[
        float | None,
        typer.Option(metavar="X", help="Drop what it takes for relevant: above X, 0 to 1."),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Write its logits as pos_scores and neg_scores.")
    ] = False,
    fill_random: Annotated[
        bool, typer.Option("--fill-random", help="Fill up with random passages not retrieved.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the negatives that are there, before the mined.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the drawing.")] = 42,
    json: JsonOption = False,
) -> None:
    """Give training pairs hard negatives. They rank high for the query and are no answer."""
    from m3search.training.mining.negatives import Tally

    started = time.perf_counter()
    _check_usage(pairs, index, corpus)
    corpus = _find_corpus(corpus)
    settings = _read_settings(
        ranks=_parse_ranks(ranks),
        negatives=negatives,
        margin=margin,
        relative_margin=relative_margin,
        max_score=max_score,
        reranker_threshold=reranker_threshold,
        teacher_scores=scores,
        fill_random=fill_random,
        keep=keep,
        seed=seed,
    )
    _check_reranker(settings, reranker)
    pool = Pool(
        pairs=tuple(pairs),
        index=index,
        corpus=corpus,
        model=model,
        modes=parse_mode(mode),
        weights=parse_weights(weights),
        max_length=max_length,
        bm25=bm25,
    )
    check_pool(pool)
    outputs = _plan_outputs(pairs, out, [] if corpus is None else [corpus])
    tally = Tally()
    _mine_files(pool, outputs, settings, reranker, tally)
    _print_summary(tally, list(outputs), time.perf_counter() - started, json)


def _check_usage(pairs: Sequence[Path], index: Path | None, corpus: Path | None) -> None:
    if index is not None and corpus is not None:
        raise typer.BadParameter("only one of them goes", param_hint="--index and --corpus")
    if Path("-") in (*pairs, corpus):
        raise typer.BadParameter(
            "standard input can be read once, and this is read twice", param_hint="-"
        )


def _find_corpus(corpus: Path | None) -> Path | None:
    """The file of documents where the folder of a set is given, else the path as it is."""
    if corpus is None or not corpus.is_dir():
        return corpus
    from m3search.evaluation.layouts import find_corpus

    return find_corpus(corpus) or corpus


def _read_settings(**given: Any) -> MiningSettings:
    """The rules; a value out of range is a usage error of its option."""
    from m3search.training.mining.rules import MiningSettings

    try:
        return MiningSettings(**given)
    except ValueError as error:
        name = str(error).partition(" ")[0].replace("_", "-")
        raise typer.BadParameter(str(error), param_hint=f"--{name}") from error


def _check_reranker(settings: MiningSettings, reranker: str | None) -> None:
    if settings.asks_reranker and reranker is None:
        option = "--scores" if settings.teacher_scores else "--reranker-threshold"
        raise typer.BadParameter("needs a cross-encoder: --reranker NAME", param_hint=option)
    if reranker is not None and not settings.asks_reranker:
        raise typer.BadParameter(
            "needs something to do: --reranker-threshold X, --scores, or both",
            param_hint="--reranker",
        )


def _parse_ranks(value: str) -> tuple[int, int]:
    first, dash, last = value.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise typer.BadParameter(
            f"expected ranks such as 10-210, found {value!r}", param_hint="--ranks"
        )
    return int(first), int(last)


def _plan_outputs(
    pairs: Sequence[Path], out: str, also_read: Sequence[Path]
) -> dict[Path, list[Path]]:
    """Each file to write, with the files whose lines go there."""
    outputs: dict[Path, list[Path]] = {}
    folder = out.endswith("/") or Path(out).is_dir()
    for path in pairs:
        place = Path(out) / path.name.removesuffix(".zst") if folder else Path(out)
        outputs.setdefault(place, []).append(path)
    inputs = {path.resolve() for path in (*pairs, *also_read)}
    for place, sources in outputs.items():
        found = ""
        if place.resolve() in inputs:
            found = f"{place}, which is read from"
        elif folder and len(sources) > 1:
            found = f"two files that both become {place}"
        elif place.suffix == ".zst":
            found = f"{place}: zstd is read here, but not written"
        if found:
            raise ConfigError(
                "--out",
                expected="a place of its own, plain or .gz, for what is written",
                found=found,
                remedy="Give another file or folder.",
            )
    return outputs


def _mine_files(
    pool: Pool,
    outputs: dict[Path, list[Path]],
    settings: MiningSettings,
    reranker: str | None,
    tally: Tally,
) -> None:
    from m3search.training.mining.negatives import mine
    from m3search.training.mining.records import (
        KnownPositives,
        read_training_records,
        write_records,
    )

    known, queries = KnownPositives(), 0
    for record in chain.from_iterable(map(read_training_records, pool.pairs)):
        known.add(record)  # and every line is looked at before anything slow
        queries += 1
    with ExitStack() as stack:
        judge = _load_reranker(reranker)
        source = open_source(pool, stack)
        step = stack.enter_context(progress_bar("queries", queries, what="mining"))
        for target, files in outputs.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            records = chain.from_iterable(map(read_training_records, files))
            mined = mine(records, source, settings, known=known, reranker=judge, tally=tally)
            write_records(target, _counted(mined, step))


def _load_reranker(name: str | None) -> PairScorer | None:
    if name is None:
        return None
    from m3search.training.mining.reranker import Reranker

    return Reranker.load(name)


def _counted(records: Iterable[Record], step: Callable[[int], None]) -> Iterator[Record]:
    for record in records:
        yield record
        step(1)


def _print_summary(tally: Tally, files: Sequence[Path], seconds: float, json: bool) -> None:
    mean = tally.negatives / max(tally.queries, 1)
    if json:
        print_json(
            {
                "files": [str(path) for path in files],
                "queries": tally.queries,
                "negatives": tally.negatives,
                "mean": round(mean, 4),
                "filled": tally.filled,
                "short": tally.short,
                "unscored": tally.unscored,
                "dropped": tally.dropped,
                "seconds": round(seconds, 3),
            }
        )
        return
    print_note(f"{tally.queries} queries in {', '.join(map(str, files))}, {seconds:.1f} s")
    random = f", {tally.filled} of them random" if tally.filled else ""
    print_note(f"{tally.negatives} negatives, {mean:.2f} a query{random}")
    print_note(f"{tally.short} queries with fewer than asked")
    if tally.unscored:
        print_note(f"{tally.unscored} queries with a positive that no margin could be kept to")
    dropped = ", ".join(f"{rule} {count}" for rule, count in sorted(tally.dropped.items()))
    print_note(f"candidates dropped by rule: {dropped or 'none'}")
