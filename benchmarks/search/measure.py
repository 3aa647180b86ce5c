"""What does a search cost each system, cold, warm, in bulk, and after an append?

All that is compared takes turns: a repetition goes through all lines before the next one begins, so that what else the
machine does is shared by all.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.search.places import Place
from benchmarks.search.prepare import Prepared
from benchmarks.search.systems import Entry
from benchmarks.search.worker import WorkerProcess
from zarrvec.testing.proxy import ProxyStats, S3Proxy

LATENCY_MS = 30
BATCHES = (1, 100, 1000)
MORE_ROWS = 5_000
_WARM_QUERIES = 5
_SLOT_SECONDS = 0.5
_SLOW_SECONDS = 5.0
_FOUND_QUERIES = 10
_MORE_APPENDS = 12
"""In a row, so that what a process pays once, such as memory that it has not touched yet, is in few of them."""

Start = Callable[[Entry], WorkerProcess]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the table and what was measured for it."""

    entry: Entry
    target: float
    prepared: Prepared
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Note one more measurement of that name."""
        self.values.setdefault(name, []).append(value)

    def to_json(self) -> dict[str, Any]:
        """Return all that the report needs."""
        cold, qps = self.prepared.cold[str(self.target)], self.prepared.qps[str(self.target)]
        return {
            "entry": self.entry.name,
            "label": self.entry.label,
            "target": self.target,
            "exact": self.entry.exact,
            "settings": cold.settings,
            "recall": cold.recall,
            "qps_settings": qps.settings,
            "qps_recall": qps.recall,
            "build": None if self.entry.built_by else self.prepared.build,
            **self.values,
        }


def cold_and_warm(
    lines: Sequence[Line], *, proxy: S3Proxy, start: Start, repeats: int, loopback_repeats: int
) -> None:
    """Measure searches in fresh processes, at `LATENCY_MS` a request and on loopback."""
    for number in range(max(repeats, loopback_repeats)):
        for line in lines:
            if number < repeats:
                _one_process(line, "s3", _proxied(line, proxy), number, start, proxy)
            if number < loopback_repeats:
                _one_process(line, "loopback", line.prepared.place, number, start, None)


def throughput(lines: Sequence[Line], *, start: Start, repeats: int) -> None:
    """Measure queries a second on the local copies, with all processes loaded and one at work.

    A batch that takes more than `_SLOW_SECONDS` is measured once.
    """
    with ExitStack() as stack:
        workers = []
        for line in lines:
            worker = stack.enter_context(start(line.entry))
            tuned = line.prepared.qps[str(line.target)]
            worker.ask("load", place=line.prepared.copy.to_json(), settings=tuned.settings)
            workers.append((line, worker))
        for _ in range(repeats):
            for line, worker in workers:
                for batch in BATCHES:
                    name = f"qps_{batch}"
                    if batch / min(line.values.get(name, [batch])) < _SLOW_SECONDS:
                        line.add(name, worker.ask("throughput", batch=batch, seconds=_SLOT_SECONDS)["qps"])


def appends(
    lines: Sequence[Line],
    *,
    proxy: S3Proxy,
    start: Start,
    fresh: Callable[[Entry], Place],
    loopback_repeats: int,
) -> None:
    """Measure an append of all queries to a copy on the server, whether they are found at once, and a larger append."""
    for line in lines:
        place = fresh(line.entry)
        line.values["append_s3"] = _append(line, place.through(proxy.endpoint_url), start, proxy)
        place.clear()
    for _ in range(loopback_repeats):
        for line in lines:
            place = fresh(line.entry)
            appended = _append(line, place, start, None, times=_MORE_APPENDS)
            put_seconds = place.put_seconds(line.values["append_s3"]["more_bytes_sent"])
            line.add("append_loopback", {**appended, "put_seconds": put_seconds})
            place.clear()


def _append(
    line: Line, place: Place, start: Start, proxy: S3Proxy | None, *, times: int = 1
) -> dict[str, Any]:
    """Append in a fresh process: all queries, and then `MORE_ROWS` so many times."""
    settings = line.prepared.cold[str(line.target)].settings
    with start(line.entry) as worker:
        worker.ask("cold", place=place.to_json(), settings=settings, query=0)
        answer = _asked(worker, proxy, "append")
        found = [worker.ask("find_appended", query=number) for number in range(_FOUND_QUERIES)]
        more = [_asked(worker, proxy, "append", more=MORE_ROWS) for _ in range(times)]
    return {
        **answer,
        "first_search_ms": found[0]["seconds"] * 1e3,
        "found": sum(each["found"] for each in found) / len(found),
        **{f"more_{name}": value for name, value in more[0].items()},
        "more_seconds": [each["seconds"] for each in more],
    }


def _one_process(
    line: Line, kind: str, place: Place, number: int, start: Start, proxy: S3Proxy | None
) -> None:
    """Search cold and then warm; each repetition has queries of its own.

    Another process has asked the server for the same just before: of an object that it has not served for some hundred
    megabytes it reads much more than it is asked for, and the first line after those that download all would pay for that.
    """
    first = number * (1 + _WARM_QUERIES)
    queries = range(first, first + 1 + _WARM_QUERIES)
    settings = line.prepared.cold[str(line.target)].settings
    with start(line.entry) as worker:
        worker.ask("open", place=line.prepared.place.to_json(), settings=settings)
        for query in queries:
            worker.ask("warm", query=query)
    with start(line.entry) as worker:
        line.add("import_seconds", worker.import_seconds)
        opened = _asked(worker, proxy, "open", place=place.to_json(), settings=settings)
        answered = _asked(worker, proxy, "warm", query=first)
        line.add(f"{kind}_opened", answered)
        line.add(f"{kind}_cold", _together(opened, answered))
        for query in queries[1:]:
            line.add(f"{kind}_warm", _asked(worker, proxy, "warm", query=query))


def _asked(worker: WorkerProcess, proxy: S3Proxy | None, command: str, **arguments: Any) -> dict[str, Any]:
    """Return the answer to a command, and the requests that it took."""
    if proxy is None:
        answer: dict[str, Any] = worker.ask(command, **arguments)
        return answer
    with proxy.counting() as count:
        answer = worker.ask(command, **arguments)
    return {**answer, **_counts(count.stats)}


def _together(*answers: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of what each of some answers, one after the other, has taken."""
    return {
        name: dict(sum((Counter(answer[name]) for answer in answers), Counter()))
        if name == "kinds"
        else sum(answer[name] for answer in answers)
        for name in answers[0]
    }


def _proxied(line: Line, proxy: S3Proxy) -> Place:
    return line.prepared.place.through(proxy.endpoint_url)


def _counts(stats: ProxyStats) -> dict[str, Any]:
    return {
        "rounds": stats.rounds,
        "requests": stats.total_requests,
        "kinds": {kind: count for kind, count in stats.requests.items() if count},
        "bytes": stats.bytes_out,
        "bytes_sent": stats.bytes_in,
    }
