"""Our runs beside published figures, a table for each protocol: figures under different ones never share a column.

A pool is what one table holds: the published figures of a benchmark under a protocol, and the runs that were made under
exactly its conditions. Runs under any other conditions make pools of their own.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, Number, Positive, load, require
from evaluation.compare import families, point, summarise
from evaluation.intervals import Aup, aup
from evaluation.protocol import NAMES, Benchmark, Protocol, describe, differences, same_conditions
from evaluation.report import percent, table
from evaluation.run import Run

FILE = Path(__file__).with_name("published.yaml")
Point = tuple[Positive | None, Number]  # tokens per forward, accuracy in percent
NOTES = """Published figures are their authors' single runs, on their machines and in their harness, without intervals. AUP is the
area under accuracy against tokens per forward, each accuracy y weighted by exp(-3 (1 - y / y_max)); points more than 5 points
under a method's first are dropped. y_max is the best accuracy of the table (runs over all documents), so that areas of different
tables do not compare.
What lies before a method's first point counts in full: an area of one point is tokens per forward times accuracy and does not
compare with one that begins at one token per forward. Ours count tokens before the first end of the answer."""


@dataclass(frozen=True, config=STRICT)
class PublishedTable:
    """Figures of one source, by method and benchmark, under a stored protocol or, in words, another harness.

    speedups: times less wall clock, by benchmark.
    """

    title: str
    source: str
    methods: dict[str, dict[str, tuple[Point, ...]]]
    protocol: str | None = None
    harness: str | None = None
    speedups: dict[str, Number] = Field(default_factory=dict)

    def __post_init__(self):
        require((self.protocol is None) != (self.harness is None), f"{self.title}: give either protocol or harness")
        require(self.protocol in (None, *NAMES), f"protocol={self.protocol} is not one of {', '.join(NAMES)}")


@dataclass(frozen=True, config=STRICT)
class PublishedFigures:
    """The file of published figures."""

    tables: tuple[PublishedTable, ...]


def published_tables() -> tuple[PublishedTable, ...]:
    return load(PublishedFigures, FILE).tables


@plain_dataclass
class Pool:
    """What one table holds. published: points with their sources by method; runs: those under these conditions."""

    title: str
    header: str
    documents: int | None = None
    note: str = ""
    published: dict[str, list[tuple[Point, str]]] = field(default_factory=lambda: defaultdict(list))
    runs: list[Run] = field(default_factory=list)

    @property
    def points(self) -> dict[str, list[Point]]:
        """The points of every method: published ones, and our families of decoders."""
        theirs = {f"{method} (published)": [point for point, _ in points] for method, points in self.published.items()}
        return theirs | {name: [point(run) for run in runs] for name, runs in families(self.runs).items()}

    def add(self, published: PublishedTable, benchmark: str) -> None:
        """Add the figures that a published table has of a benchmark."""
        for method, figures in published.methods.items():
            if benchmark in figures:
                self.published[method] += [(point, published.source) for point in figures[benchmark]]

    @property
    def y_max(self) -> float:
        """The best accuracy; of runs over a part of the documents only where nothing else is there."""
        theirs = [accuracy for points in self.published.values() for (_, accuracy), _ in points]
        whole = [point(run)[1] for run in self.runs if len(run.documents) == self.documents]
        return max([*theirs, *whole] or [point(run)[1] for run in self.runs])

    def areas(self) -> dict[str, Aup]:
        """AUP of every method that has tokens per forward, all with the y_max of the pool."""
        known = {name: [p for p in points if p[0] is not None] for name, points in self.points.items()}
        return {name: aup(points, self.y_max) for name, points in known.items() if points and self.y_max > 0}


def stored_pool(name: str, title: str, benchmark: Benchmark) -> Pool:
    """The pool of a benchmark under a stored protocol, with all figures published under it, without runs."""
    pool = Pool(benchmark.title, f"protocol {name}: {describe(benchmark.conditions())}", benchmark.documents)
    for each in published_tables():
        if each.protocol == name:
            pool.add(each, title)
    return pool


def foreign_pools() -> list[Pool]:
    """Figures of harnesses that are not stored, a pool for each of their benchmarks."""
    found = []
    for each in published_tables():
        titles = dict.fromkeys(title for figures in each.methods.values() for title in figures)
        for title in titles if each.protocol is None else ():
            found.append(Pool(Protocol.read("default").find(title).title, each.harness))
            found[-1].add(each, title)
    return found


def pools_of(runs: Sequence[Run], asked: str) -> list[Pool]:
    """A pool for every benchmark of the protocol that is asked for, then one for each other set of conditions."""
    waiting, found = list(runs), []
    for name in (asked, *(name for name in NAMES if name != asked)):
        for title, benchmark in Protocol.read(name).benchmarks.items():
            pool, stored = stored_pool(name, title, benchmark), benchmark.conditions()
            pool.runs = [run for run in waiting if same_conditions(run.protocol, stored)]
            waiting = [run for run in waiting if not same_conditions(run.protocol, stored)]
            if pool.runs or (name == asked and pool.published):
                found.append(pool)
    others: dict[str, list[Run]] = defaultdict(list)
    for run in waiting:
        others[json.dumps([run.task, run.protocol], sort_keys=True)].append(run)
    return [*found, *(other_pool(same) for same in others.values()), *foreign_pools()]


def other_pool(runs: list[Run]) -> Pool:
    """The pool of runs whose conditions are not stored, and in what they differ from their protocol's."""
    recorded = runs[0].protocol
    if recorded is None:
        return Pool(runs[0].task, describe(None), note="These runs say nothing of their protocol.", runs=runs)
    stored = Protocol.read(recorded["name"]).find(recorded["task"])
    note = f"Run as {recorded['name']}, but with {differences(recorded, stored.conditions())}."
    return Pool(stored.title, describe(recorded), stored.documents, note, runs=runs)


def pool_table(pool: Pool) -> str:
    """A line per published point and per run; the AUP of a method stands in its first line."""
    areas, rows = pool.areas(), []

    def area(name: str, first: bool) -> str:
        own = areas.get(name) if first else None
        return "" if own is None else f"{own.value:.1f} ({own.points} point{'s' * (own.points > 1)})"

    for method, points in pool.published.items():
        for i, ((rho, accuracy), source) in enumerate(sorted(points, key=lambda p: p[0][0] or 0)):
            name = f"{method} (published)"
            rows.append([name, f"{accuracy:g}", "" if rho is None else f"{rho:g}", area(name, i == 0), "", source])
    for family, runs in families(pool.runs).items():
        for i, run in enumerate(sorted(runs, key=point)):
            of = "" if pool.documents is None else f" of {pool.documents}"
            cells = [f"{family}: {run.name}", percent(summarise(run)), f"{point(run)[0]:.2f}", area(family, i == 0)]
            rows.append([*cells, f"{len(run.documents)}{of}", "this repository"])
    y_max = f"{pool.y_max:.1f}"
    head = [
        f"{pool.title}, {pool.header}",
        "accuracy, %",
        "tokens per forward",
        f"AUP (y_max {y_max})",
        "documents",
        "from",
    ]
    if not pool.runs and pool.documents is not None:
        rows.append(["this repository: not run", "", "", "", "", ""])
    return table(head, rows)


def markdown(pools: Sequence[Pool], asked: str) -> str:
    protocol = Protocol.read(asked)
    parts = [f"# Our runs beside published figures: {protocol.title}", f"Protocol `{asked}`: {protocol.source}."]
    for pool in pools:
        parts += [pool_table(pool), *([pool.note] if pool.note else [])]
    return "\n\n".join([*parts, NOTES]) + "\n"


def as_json(pools: Sequence[Pool]) -> list[dict]:
    """The pools with every figure, its source and its AUP."""
    return [
        {
            "benchmark": pool.title,
            "protocol": pool.header,
            "note": pool.note,
            "y_max": pool.y_max,
            "published": pool.published,
            "runs": [{"name": run.name, "point": point(run)} | summarise(run) for run in pool.runs],
            "aup": {name: {"value": area.value, "points": area.points} for name, area in pool.areas().items()},
        }
        for pool in pools
    ]
