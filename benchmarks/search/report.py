"""How are the results told? As Markdown, from the JSON that `benchmarks.search.run` writes.

``python -m benchmarks.search.report RESULTS.json`` writes the Markdown again, without measuring anything.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.search.measure import BATCHES, MORE_ROWS

_READ_DOLLARS = 0.0004 / 1000
_OTHER_DOLLARS = 0.005 / 1000
_READS = ("GET", "HEAD")
_NOTHING = "-"

_PREFACE = """\
# Searching vectors on S3: zarrvec and others

Written by `python -m benchmarks.search.run`; what it does is told in the docstrings of `benchmarks/search`. All systems
of a data set took turns in one run against one S3 server (SeaweedFS, on the same machine). Cold is from a fresh process that
has imported everything, from opening to the answer of one query; "from open" is what of that follows once store or table is
open; warm is another query in that process. Cold is the process, not the server: another one has asked it for the same just before.
{latency} ms is what a proxy lets pass before the first byte of every response. Numbers are medians, with the least and the most behind them.
A round is a wait: requests that overlap are one. Settings of the others are the cheapest of a sweep that reach the recall; zarrvec
is only told the recall, and its arrays are what `zarrvec.plan` makes of a sample for full scans and appends of 5,000 rows. LanceDB is measured by its own interface and by that of its engine, which reads less to open a table.
Recall is over all queries, none of which is among the rows, and counts ties as right. Rows of minilm_jittered have copies and
its queries have none: zarrvec's index of it was shown 200 other queries.

Dollars for a million queries = 10^6 x ((GET + HEAD) x $0.0004 + (LIST + PUT + POST) x $0.005) / 1000, requests only.
"In memory": one process that has answered all queries before, on a local copy of what is on S3; faiss has its index in memory,
and brute force its rows. Rows a second are those of one append each, the median of all, and then those of all appends together: some
merge segments of zarrvec's index and take two to five times as long, which only the second figure tells, and the least of the first.
"""

Line = Mapping[str, Any]


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole document."""
    latency = next(iter(results.values()))["latency_ms"]
    return "\n".join(
        [_PREFACE.format(latency=latency), *(_dataset(name, data) for name, data in results.items())]
    )


def machine() -> dict[str, Any]:
    """Return what this computer is."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def _dataset(name: str, data: Mapping[str, Any]) -> str:
    lines = data["lines"]
    versions = ", ".join(f"{package} {version}" for package, version in data["versions"].items())
    parts = [
        f"## {name}: {data['rows']:,} x {data['width']} {data['dtype']}, {data['metric']}",
        "",
        f"{data['date']}, {data['machine']['cores']} cores ({data['machine']['cpu']}), {data['queries']:,} queries; {versions}.",
        "",
        f"`{data['command']}`",
        "",
        *([data["note"], ""] if "note" in data else []),
        f"### From S3 at {data['latency_ms']} ms a request, {_bandwidth(data['bandwidth'])}",
        "",
        _table(_from_s3(), [line for line in lines if "s3_cold" in line]),
        "### From S3 on loopback, and in memory",
        "",
        _table(_elsewhere(), lines),
        "### Building and appending",
        "",
        _table(_made(data["queries"]), [line for line in lines if "append_s3" in line]),
    ]
    parts += [*_comparisons(lines), ""]
    parts += [f"Not measured: {entry}: {reason}\n" for entry, reason in data["failed"].items()]
    return "\n".join(parts)


Columns = Sequence[tuple[str, Callable[[Line], str]]]


def _from_s3() -> Columns:
    return [
        ("system", _system),
        ("recall@10", lambda line: f"{line['recall']:.3f}"),
        ("settings", lambda line: _settings(line["settings"])),
        ("rounds", lambda line: _spread(_of(line, "s3_cold", "rounds"))),
        ("requests", lambda line: _spread(_of(line, "s3_cold", "requests"))),
        ("MB", lambda line: _spread(_of(line, "s3_cold", "bytes", 1e-6), 2)),
        ("cold ms", lambda line: _spread(_of(line, "s3_cold", "ms"))),
        ("from open: rounds", lambda line: _spread(_of(line, "s3_opened", "rounds"))),
        ("from open: requests", lambda line: _spread(_of(line, "s3_opened", "requests"))),
        ("from open: ms", lambda line: _spread(_of(line, "s3_opened", "ms"))),
        ("warm rounds", lambda line: _spread(_of(line, "s3_warm", "rounds"))),
        ("warm requests", lambda line: _spread(_of(line, "s3_warm", "requests"))),
        ("warm ms", lambda line: _spread(_of(line, "s3_warm", "ms"))),
        ("$ a million, cold", lambda line: _dollars(line["s3_cold"])),
        ("$ a million, warm", lambda line: _dollars(line["s3_warm"])),
        ("import s", lambda line: _spread(line["import_seconds"], 2)),
    ]


def _elsewhere() -> Columns:
    return [
        ("system", _system),
        ("loopback: cold ms", lambda line: _spread(_of(line, "loopback_cold", "ms"))),
        ("warm ms", lambda line: _spread(_of(line, "loopback_warm", "ms"), 1)),
        ("in memory: settings", lambda line: _settings(line["qps_settings"])),
        ("recall@10", lambda line: f"{line['qps_recall']:.3f}"),
        *((f"queries/s, {batch} at once", _queries_a_second(batch)) for batch in BATCHES),
    ]


def _made(queries: int) -> Columns:
    return [
        ("system", lambda line: str(line["label"])),
        ("write s", lambda line: _built(line, "write_seconds", 1, 1)),
        ("build s", lambda line: _built(line, "build_seconds", 1, 1)),
        ("build's memory, MB", lambda line: _built(line, "build_memory_bytes", 1e-6, 0)),
        ("index MB", lambda line: _built(line, "index_bytes", 1e-6, 1)),
        ("all stored MB", lambda line: _built(line, "stored_bytes", 1e-6, 1)),
        (f"append {queries:,} rows: s", lambda line: f"{line['append_s3']['seconds']:.2f}"),
        ("requests", lambda line: str(line["append_s3"]["requests"])),
        ("rounds", lambda line: str(line["append_s3"]["rounds"])),
        ("MB sent", lambda line: f"{line['append_s3']['bytes_sent'] / 1e6:.1f}"),
        ("loopback s", lambda line: _spread(_of(line, "append_loopback", "seconds"), 2)),
        ("first search after it, ms", lambda line: f"{line['append_s3']['first_search_ms']:.0f}"),
        (f"{MORE_ROWS:,} more at a time: requests", lambda line: str(line["append_s3"]["more_requests"])),
        ("rows/s, loopback", lambda line: _rows_a_second(_more_seconds(line))),
        ("rows/s, all together", lambda line: _rows_a_second([statistics.mean(_more_seconds(line))])),
        (
            "rows/s, were it one PUT of these bytes",
            lambda line: _rows_a_second(_of(line, "append_loopback", "put_seconds")),
        ),
        ("found", lambda line: f"{line['append_s3']['found']:.0%}"),
    ]


def _comparisons(lines: Sequence[Line]) -> list[str]:
    """Return what zarrvec's numbers are beside the best of the others' at the same target."""
    found = []
    for ours in (line for line in lines if line["entry"] == "zarrvec"):
        others = [line for line in lines if line["target"] == ours["target"]]
        lance = [line for line in others if line["entry"].startswith("lance")]
        faiss = [line for line in others if line["entry"] == "faiss_ivf_sq8"]
        if lance:
            found.append(_ratio(ours, lance, "cold ms at the latency", partial(_median_ms, "s3_cold"), min))
            found.append(_ratio(ours, lance, "the same from open", partial(_median_ms, "s3_opened"), min))
        for batch in BATCHES:
            found += [
                _ratio(ours, peers, f"queries/s, {batch} at once", partial(_median_qps, batch), max)
                for peers in (lance, faiss)
                if peers
            ]
    return found


def _ratio(
    ours: Line,
    peers: Sequence[Line],
    what: str,
    value: Callable[[Line], float],
    best_of: Callable[..., Line],
) -> str:
    best = best_of(peers, key=value)
    return (
        f"- Recall {ours['target']}, {what}: zarrvec {value(ours):,.0f}, {best['label']} {value(best):,.0f}: "
        f"{value(ours) / value(best):.2f} of it."
    )


def _median_ms(name: str, line: Line) -> float:
    return statistics.median(_of(line, name, "ms"))


def _median_qps(batch: int, line: Line) -> float:
    return statistics.median(line[f"qps_{batch}"])


def _bandwidth(limit: float) -> str:
    return f"{limit / 1e6:.0f} MB/s a connection" if limit else "bandwidth not limited"


def _system(line: Line) -> str:
    return str(line["label"]) if line["exact"] else f"{line['label']}, recall {line['target']}"


def _settings(settings: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name} {value}" for name, value in settings.items() if name not in {"recall", "keep"})
        or _NOTHING
    )


def _of(line: Line, name: str, value: str, factor: float = 1) -> list[float]:
    return [sample[value] * factor for sample in line.get(name, [])]


def _queries_a_second(batch: int) -> Callable[[Line], str]:
    return lambda line: _spread(line.get(f"qps_{batch}", []))


def _more_seconds(line: Line) -> list[float]:
    return [seconds for sample in line["append_loopback"] for seconds in sample["more_seconds"]]


def _rows_a_second(seconds: Sequence[float]) -> str:
    return _spread([MORE_ROWS / each for each in seconds])


def _built(line: Line, name: str, factor: float, digits: int) -> str:
    return _NOTHING if line["build"] is None else f"{line['build'][name] * factor:,.{digits}f}"


def _spread(samples: Sequence[float], digits: int = 0) -> str:
    """Return the median, and the range where there is one."""
    if not samples:
        return _NOTHING
    middle, least, most = (f"{f(samples):,.{digits}f}" for f in (statistics.median, min, max))
    return middle if least == most else f"{middle} ({least}-{most})"


def _dollars(samples: Sequence[Mapping[str, Any]]) -> str:
    costs = [
        sum(
            count * (_READ_DOLLARS if kind in _READS else _OTHER_DOLLARS)
            for kind, count in sample["kinds"].items()
        )
        for sample in samples
    ]
    return f"{statistics.median(costs) * 1e6:.2f}"


def _table(columns: Columns, lines: Sequence[Line]) -> str:
    rows = [[name for name, _ in columns], ["---"] * len(columns)]
    rows += [[value(line) for _, value in columns] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the Markdown of results again.")
    parser.add_argument("results", type=Path)
    path = parser.parse_args().results
    path.with_suffix(".md").write_text(markdown(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
