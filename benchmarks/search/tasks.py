"""Which measurements can a worker make? Each method is a command; arguments and results are JSON."""

import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.places import Place
from benchmarks.search.problem import Problem, load
from benchmarks.search.systems import ENTRIES, Ids, Searcher, System

_LOAD_BATCH = 100
_LOAD_SECONDS = 5.0
_STATUS = Path("/proc/self/status")


class Tasks:
    """What one process knows: a data set, a system, and what it has opened."""

    problem: Problem
    system: System
    searcher: Searcher

    def prepare(self, *, entry: str, data: dict[str, Any]) -> None:
        """Load the data set (its rows are mapped, not read) and make the system."""
        folders = {name: Path(data[name]) for name in ("cache", "shared")}
        self.problem = load(**{**data, **folders})
        self.system = ENTRIES[entry].make()

    def write(self, *, place: dict[str, Any]) -> dict[str, Any]:
        """Write the rows."""
        target = Place.from_json(place)
        start = time.perf_counter()
        self.system.write(self.problem, target)
        return {"write_seconds": time.perf_counter() - start}

    def build(self, *, place: dict[str, Any]) -> dict[str, Any]:
        """Build the index of the rows that were written, in a process that has not seen them.

        Returns its seconds, its bytes (what is stored after it and was not before), all stored bytes, and the largest
        resident memory of the process, mapped files included.
        """
        target = Place.from_json(place)
        before = target.stored_bytes()
        start = time.perf_counter()
        self.system.build(self.problem, target)
        seconds = time.perf_counter() - start
        after = target.stored_bytes()
        return {
            "build_seconds": seconds,
            "index_bytes": after - before,
            "stored_bytes": after,
            "build_memory_bytes": _peak_memory_bytes(),
        }

    def open(self, *, place: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """Open the store, the table, or the index."""
        target = Place.from_json(place)
        start = time.perf_counter()
        self.searcher = self.system.open(self.problem, target, settings)
        return {"ms": (time.perf_counter() - start) * 1e3}

    def cold(self, *, place: dict[str, Any], settings: dict[str, Any], query: int) -> dict[str, Any]:
        """Open, and answer one query: the time of both together."""
        return {"ms": self.open(place=place, settings=settings)["ms"] + self.warm(query=query)["ms"]}

    def warm(self, *, query: int) -> dict[str, Any]:
        """Answer another query with what is open."""
        asked = self.problem.queries[query : query + 1]
        start = time.perf_counter()
        self.searcher.search(asked)
        return {"ms": (time.perf_counter() - start) * 1e3}

    def modules_of_a_search(self, *, place: dict[str, Any], settings: dict[str, Any]) -> list[str]:
        """Open, answer a query, and return the names of the modules that this has loaded, in their order."""
        before = set(sys.modules)
        self.cold(place=place, settings=settings, query=0)
        return [name for name in sys.modules if name not in before]

    def recall(self, *, place: dict[str, Any], settings: dict[str, Any], queries: int) -> dict[str, Any]:
        """Open, answer the first queries in one batch, and compare with the truth."""
        self.searcher = self.system.open(self.problem, Place.from_json(place), settings)
        self.searcher.search(self.problem.queries[:1])
        start = time.perf_counter()
        ids = self.searcher.search(self.problem.queries[:queries])
        seconds = time.perf_counter() - start
        return {"recall": self.problem.recall(ids), "qps": queries / seconds}

    def load(self, *, place: dict[str, Any], settings: dict[str, Any]) -> None:
        """Open, and answer queries until what they ask for is cached: all of them, or as many as there is time for.

        zarrvec would search with numpy until another thread has loaded compiled code, so that is waited for.
        """
        self.searcher = self.system.open(self.problem, Place.from_json(place), settings)
        if "zarrvec" in self.system.modules:
            from zarrvec.search.kernels import compile_now

            if not compile_now():
                raise RuntimeError("zarrvec has no compiled code: install numba")
        end = time.perf_counter() + _LOAD_SECONDS
        for first in range(0, len(self.problem.queries), _LOAD_BATCH):
            self.searcher.search(self.problem.queries[first : first + _LOAD_BATCH])
            if time.perf_counter() > end:
                break

    def throughput(self, *, batch: int, seconds: float) -> dict[str, Any]:
        """Answer batches for so long, at least one: the median batch's queries a second."""
        queries = self.problem.queries
        if len(queries) < batch:
            queries = np.resize(queries, (batch, queries.shape[1]))
        starts = range(0, len(queries) - batch + 1, batch)
        taken: list[float] = []
        while sum(taken) < seconds:
            first = starts[len(taken) % len(starts)]
            start = time.perf_counter()
            self.searcher.search(queries[first : first + batch])
            taken.append(time.perf_counter() - start)
        return {"qps": batch / statistics.median(taken)}

    def append(self, *, more: int = 0) -> dict[str, Any]:
        """Append all queries to what is open, or so many rows that are in it already."""
        rows = np.array(self.problem.base[:more]) if more else self.problem.queries
        start = time.perf_counter()
        self.searcher.append(rows)
        return {"seconds": time.perf_counter() - start}

    def find_appended(self, *, query: int) -> dict[str, Any]:
        """Search for a row that was appended."""
        start = time.perf_counter()
        ids: Ids = self.searcher.search(self.problem.queries[query : query + 1])
        seconds = time.perf_counter() - start
        return {"found": len(self.problem.base) + query in ids[0].tolist(), "seconds": seconds}


def _peak_memory_bytes() -> int:
    if _STATUS.exists():  # what getrusage says on Linux includes the process that this one was forked from
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
