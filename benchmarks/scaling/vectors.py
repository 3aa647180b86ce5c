"""What do searches, appends and builds of a real index cost, counted before a real S3 server?

Rows are drawn near a surface of 8 dimensions with clusters on it, in blocks with seeds of their own: a smaller array is the
beginning of a larger one.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from benchmarks.datasets import default_shared
from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.search import sources, units
from zarrvec.search.cache import LISTS, ROOTS
from zarrvec.search.head import ATTRIBUTE
from zarrvec.testing.proxy import ProxyStats, S3Proxy
from zarrvec.testing.s3server import S3Bucket

Float32 = npt.NDArray[np.float32]
Source = Callable[..., Iterator[Float32]]
"""Yields (n, width) rows: so many, from one on."""

CHUNK_BYTES = 1 << 20
APPENDED = 5_000
COLD, WARM = 5, 20
"""Queries that are counted in a process that holds nothing, and after that."""
RECALL = 0.95
LATENCY = "60"
"""Milliseconds for a request while rounds are counted: what is asked for side by side overlaps, however busy the machine."""
REAL_ROWS = 26_000
_BLOCK = 100_000
QUERIES_FROM, APPENDED_FROM = 9_000 * _BLOCK, 9_001 * _BLOCK
"""Rows that no array holds."""
_LATENT, _CENTRES, _NOISE = 8, 500, 0.1


def rows(width: int, count: int, *, first: int = 0) -> Iterator[Float32]:
    """Yield (n, width) float32 blocks from a row on, which must begin a block."""
    fixed = np.random.default_rng(1)
    centres = fixed.normal(size=(_CENTRES, _LATENT))
    turn = fixed.normal(size=(_LATENT, width)).astype("f4")
    for start in range(first, first + count, _BLOCK):
        random = np.random.default_rng([2, start])
        latent = centres[random.integers(_CENTRES, size=_BLOCK)] + 0.5 * random.normal(size=(_BLOCK, _LATENT))
        block = np.tanh(latent.astype("f4") @ turn)
        block += _NOISE * random.standard_normal(block.shape, dtype="f4")
        yield block[: first + count - start]


def minilm(_: int, count: int, *, first: int = 0) -> Iterator[Float32]:
    """Yield rows of real embeddings, (32,000, 384), of which the last are queries."""
    base = np.load(default_shared() / "data" / "text_minilm" / "base.npy", mmap_mode="r")
    start = first if first < len(base) else REAL_ROWS + (APPENDED if first == QUERIES_FROM else 0)
    yield np.asarray(base[start : start + count], dtype="f4")


def options_of(bucket: S3Bucket) -> dict[str, Any]:
    return {"s3": bucket.storage_options, "zarrvec": {"max_staleness": 600}}


def url_of(bucket: S3Bucket) -> str:
    return f"zarrvec::{bucket.url}/data.zarr"


def forget() -> None:
    """Hold nothing in memory, as in a new process."""
    run_sync(engines.close_engines())
    for cache in (LISTS, ROOTS, sources._OPENED, sources._GENERATIONS, units._ROWS):
        cache.clear()


def figures(stats: ProxyStats | Any) -> dict[str, float]:
    """Return what went through the proxy."""
    return {
        "requests": stats.total_requests,
        "rounds": stats.rounds,
        "read_bytes": stats.bytes_out,
        "written_bytes": stats.bytes_in,
        "lists": stats.requests["LIST"],
        "gets": stats.requests["GET"],
        "puts": stats.requests["PUT"] + stats.requests["POST"],
    }


def averaged(taken: list[dict[str, float]]) -> dict[str, float]:
    return {name: mean(one[name] for one in taken) for name in taken[0]}


def counted(proxy: S3Proxy, act: Callable[[], object]) -> dict[str, float]:
    with proxy.counting() as count:
        act()
    return figures(count)


def build(
    bucket: S3Bucket, proxy: S3Proxy, count: int, width: int, nlist: int | None = None, source: Source = rows
) -> dict[str, Any]:
    """Write an array and build its index; return what the build cost, and what the index is."""
    root = zarr.open_group(url_of(bucket), mode="a", storage_options=options_of(bucket))
    chunk_rows = CHUNK_BYTES // (4 * width)
    array = root.create_array(
        "x", shape=(count, width), chunks=(chunk_rows, width), dtype="f4", compressors=None
    )
    waiting, at = np.empty((0, width), "f4"), 0
    for block in source(width, count):
        waiting = np.concatenate([waiting, block])
        whole = len(waiting) // chunk_rows * chunk_rows if at + len(waiting) < count else len(waiting)
        array[at : at + whole] = waiting[:whole]
        waiting, at = waiting[whole:], at + whole
    del waiting, block
    forget()
    proxied = dataclasses.replace(bucket, endpoint_url=proxy.endpoint_url)
    array = zarr.open_array(url_of(proxied), path="x", mode="r+", storage_options=options_of(proxied))
    began = time.perf_counter()
    with watched() as peak:
        cost = counted(proxy, lambda: array.vec.build_index(metric="cosine", nlist=nlist))
    return {
        "rows": count,
        "width": width,
        "nlist_given": nlist,
        "build": {**cost, **peak, "seconds": time.perf_counter() - began},
        "index": told(array),
    }


def told(array: Any) -> dict[str, Any]:
    """Return what the head of an index says."""
    head: Any = zarr.open_group(array.store, path=f"{array.path}.vec", mode="r").attrs[ATTRIBUTE]
    first = head["segments"][0]
    groups = first["groups"]
    calibration = head["calibration"]
    return {
        "lists": first["lists"],
        "entries": first["entries"],
        "groups": None if groups is None else groups["count"],
        "seen": None if groups is None else groups["seen"],
        "segments": len(head["segments"]),
        "units": int(np.prod(head["grid"])),
        "calibration": {
            "nprobe": calibration["nprobe"],
            "recall": next(c["recall"] for c in calibration["curves"] if c["k"] == 10),
        },
        "seconds": head["built"]["seconds"],
    }


def searches(bucket: S3Bucket, proxy: S3Proxy, width: int, source: Source = rows) -> dict[str, Any]:
    """Return what searches for rows that the array does not hold cost."""
    queries = next(source(width, COLD + WARM, first=QUERIES_FROM))
    proxied = dataclasses.replace(bucket, endpoint_url=proxy.endpoint_url)
    cold, warm, lists, array = [], [], [], None
    for query in queries[:COLD]:
        proxy.configure(ttfb="0")
        forget()
        array = zarr.open_array(url_of(proxied), path="x", mode="r", storage_options=options_of(proxied))
        proxy.configure(ttfb=LATENCY)
        cold.append(counted(proxy, lambda array=array, query=query: array.vec.search(query, recall=RECALL)))
    assert array is not None
    nprobe = 0
    for query in queries[COLD:]:
        LISTS.clear()
        with proxy.counting() as count:
            hits = array.vec.search(query, recall=RECALL)
        warm.append(figures(count))
        lists.append(hits.stats.lists)
        nprobe = int(hits.stats.nprobe or 0)
    proxy.configure(ttfb="0")
    return {"cold": averaged(cold), "warm": averaged(warm), "nprobe": nprobe, "lists_read": mean(lists)}


def search_folded(bucket: S3Bucket, proxy: S3Proxy, width: int, source: Source = rows) -> dict[str, float]:
    """Return what a first search costs when other changes have had the keys of the array folded into pages of the manifest."""
    root = zarr.open_group(url_of(bucket), mode="a", storage_options=options_of(bucket))
    root.create_array("other", shape=1_000, chunks=1, dtype="u1", fill_value=1)[:] = 0
    proxied = dataclasses.replace(bucket, endpoint_url=proxy.endpoint_url)
    taken = []
    for query in next(source(width, COLD, first=QUERIES_FROM)):
        forget()
        array = zarr.open_array(url_of(proxied), path="x", mode="r", storage_options=options_of(proxied))
        proxy.configure(ttfb=LATENCY)
        taken.append(counted(proxy, lambda array=array, query=query: array.vec.search(query, recall=RECALL)))
        proxy.configure(ttfb="0")
    return averaged(taken)


def append(bucket: S3Bucket, proxy: S3Proxy, width: int, source: Source = rows) -> dict[str, float]:
    """Return what an append costs to which the index is open."""
    proxied = dataclasses.replace(bucket, endpoint_url=proxy.endpoint_url)
    forget()
    array = zarr.open_array(url_of(proxied), path="x", mode="r+", storage_options=options_of(proxied))
    new = next(source(width, APPENDED, first=APPENDED_FROM))
    array.vec.search(new[0], recall=RECALL)
    proxy.configure(ttfb=LATENCY)
    cost = counted(proxy, lambda: array.vec.append(new))
    proxy.configure(ttfb="0")
    return {**cost, "segments": told(array)["segments"]}


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Find out how much more memory a block takes than there was at its beginning, and how large its unnamed files become."""
    found: dict[str, float] = {"memory_bytes": 0.0, "temporary_bytes": 0.0}
    before, done = _resident(), threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            found["memory_bytes"] = max(found["memory_bytes"], _resident() - before)
            found["temporary_bytes"] = max(found["temporary_bytes"], _unnamed_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def _resident() -> int:
    """Return the bytes of memory that are this process's own; not those of files that it maps."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _unnamed_bytes() -> int:
    sizes = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            if str(link.readlink()).endswith("(deleted)"):
                found = link.stat()
                sizes[found.st_ino] = found.st_size  # a file that is mapped is open twice
        except OSError:  # closed meanwhile
            continue
    return sum(sizes.values())
