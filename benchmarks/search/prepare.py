"""How does each system get its data and its settings, and what of that is kept for the next run?

A system is built once, on the S3 server, and copied to the cache; a later run with the same versions uploads the copy.
Settings are the cheapest that reach a recall: along each `Sweep` the smallest number that does, found by bisection with some
of the queries; among those the one with the least cold time at the latency of the benchmark, and the one with the
most queries a second; then both with all queries, one number up until the recall holds.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.search.places import Place
from benchmarks.search.problem import Problem
from benchmarks.search.systems import Entry, Sweep
from benchmarks.search.worker import WorkerProcess
from zarrvec.testing.proxy import S3Proxy

_SWEEP_QUERIES = 100
_COLD_TRIES = 3
_HIGHER_VALUES = 4
_COPY = "copy"
_REPORT = "built.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Settings that reach a recall."""

    settings: dict[str, Any]
    recall: float
    """Over all queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A system with its data on the server and in a local copy."""

    place: Place
    """On the server, not through the proxy."""
    copy: Place
    build: dict[str, Any]
    """What `benchmarks.search.tasks.Tasks.build` has returned."""
    cold: dict[str, Tuned]
    """By target, where it is reached: settings for a search on S3."""
    qps: dict[str, Tuned]
    """By target, where it is reached: settings for searches in one process."""


def prepare(
    entry: Entry,
    problem: Problem,
    *,
    place: Place,
    folder: Path,
    versions: dict[str, str],
    targets: Sequence[float],
    proxy: S3Proxy,
    start: Callable[[Entry], WorkerProcess],
    say: Callable[[str], None],
) -> Prepared:
    """Build or upload, then find the settings that are not known yet."""
    copy = Place(directory=str(copy_in(folder)))
    report_path = folder / _REPORT
    report = json.loads(report_path.read_text()) if report_path.exists() else {}
    if report.get("versions") == versions:
        place.upload(copy_in(folder))
        say(f"{entry.name}: built before, uploaded")
    else:
        build: dict[str, Any] = {}
        for command in ("write", "build"):
            with start(entry) as worker:
                build |= worker.ask(command, place=place.to_json())
        place.download(copy_in(folder))
        report = {"versions": versions, "build": build, "tuned": {}}
        report_path.write_text(json.dumps(report, indent=1))
        say(f"{entry.name}: built in {build['build_seconds']:.1f} s")
    missing = [target for target in targets if not report["tuned"].get(str(target))]
    if missing:
        with start(entry) as worker:
            search = _Search(
                entry=entry, worker=worker, place=place, copy=copy, proxy=proxy, queries=len(problem.queries)
            )
            for target in missing:
                found = search.tune(target)
                report["tuned"][str(target)] = found and {
                    name: asdict(tuned) for name, tuned in found.items()
                }
                report_path.write_text(json.dumps(report, indent=1))
                say(f"{entry.name}: recall {target}: {report['tuned'][str(target)] or 'not reached'}")
    tuned = {str(target): report["tuned"][str(target)] for target in targets}
    return Prepared(
        place=place,
        copy=copy,
        build=report["build"],
        cold={target: Tuned(**found["cold"]) for target, found in tuned.items() if found},
        qps={target: Tuned(**found["qps"]) for target, found in tuned.items() if found},
    )


def copy_in(folder: Path) -> Path:
    """Return where a system's folder in the cache has the copy of what is on the server."""
    return folder / _COPY


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    entry: Entry
    worker: WorkerProcess
    place: Place
    copy: Place
    proxy: S3Proxy
    queries: int

    def tune(self, target: float) -> dict[str, Tuned] | None:
        """Return the settings for a search on S3, ``cold``, and for searches in memory, ``qps``, if any reach the target."""
        if self.entry.takes_recall:
            same = self._measured({"recall": target})
            return {"cold": same, "qps": same}
        if self.entry.exact:
            return {"cold": self._measured({"keep": False}), "qps": self._measured({"keep": True})}
        found = [
            (sweep, index, qps) for sweep in self.entry.sweeps for index, qps in self._smallest(sweep, target)
        ]
        fastest = sorted(found, key=lambda candidate: -candidate[2])
        qps = self._first_holding(fastest, target)
        if qps is None:
            return None
        cold = qps
        if len(found) > 1 and not self.entry.whole:
            cold = self._first_holding(sorted(found, key=self._cold_ms), target) or qps
        return {"cold": cold, "qps": qps}

    def _smallest(self, sweep: Sweep, target: float) -> list[tuple[int, float]]:
        """Return the position of the smallest value that reaches the target, and the queries a second; or nothing."""
        low, high = 0, len(sweep.values)
        speed: dict[int, float] = {}
        while low < high:
            middle = (low + high) // 2
            answer = self._recall(_settings(sweep, middle), _SWEEP_QUERIES)
            if answer["recall"] >= target:
                high, speed[middle] = middle, answer["qps"]
            else:
                low = middle + 1
        return [(low, speed[low])] if low < len(sweep.values) else []

    def _first_holding(self, candidates: Sequence[tuple[Sweep, int, float]], target: float) -> Tuned | None:
        """Return the first candidate that reaches the target with all queries, a few values higher at most."""
        for sweep, index, _ in candidates:
            for position in range(index, min(index + _HIGHER_VALUES, len(sweep.values))):
                tuned = self._measured(_settings(sweep, position))
                if tuned.recall >= target:
                    return tuned
        return None

    def _measured(self, settings: dict[str, Any]) -> Tuned:
        return Tuned(settings=settings, recall=self._recall(settings, self.queries)["recall"])

    def _recall(self, settings: dict[str, Any], queries: int) -> dict[str, float]:
        answer: dict[str, float] = self.worker.ask(
            "recall", place=self.copy.to_json(), settings=settings, queries=queries
        )
        return answer

    def _cold_ms(self, candidate: tuple[Sweep, int, float]) -> float:
        settings = _settings(*candidate[:2])
        place = self.place.through(self.proxy.endpoint_url).to_json()
        times = [
            self.worker.ask("cold", place=place, settings=settings, query=number)["ms"]
            for number in range(_COLD_TRIES)
        ]
        return statistics.median(times)


def _settings(sweep: Sweep, index: int) -> dict[str, Any]:
    return {**sweep.fixed, sweep.grows: sweep.values[index]}
