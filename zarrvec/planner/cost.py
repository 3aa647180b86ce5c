"""How long does some work take on a storage, and what is billed for it?

Pure. Source: ``specs/planner.md``, section "Time" and "Money".
"""

from dataclasses import dataclass
from typing import Final

from zarrvec.engine.reader import CONCURRENCY
from zarrvec.engine.staging import IN_FLIGHT
from zarrvec.faces.pipeline import SLICE_BYTES
from zarrvec.planner.effort import reading, writing
from zarrvec.planner.layout import Layout, Work
from zarrvec.planner.targets import Machine, Target

PLAIN_CONCURRENCY: Final = 10
"""Chunks that zarr asks a store for at once (its ``async.concurrency``)."""
GIGABYTE: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Where the time of a call goes; reading goes on beside decoding where there is much of both."""

    fetch: float
    """Requests that read: latency, transfer, and the client's own work."""
    decode: float
    encode: float
    store: float
    """Requests that write."""
    total: float


def seconds_of(work: Work, layout: Layout, target: Target, machine: Machine) -> Seconds:
    """Return how long a call takes.

    Examples
    --------
    >>> from zarrvec.planner.targets import TARGETS
    >>> layout = Layout(shape=(10, 1000), itemsize=8, chunks=(1, 1000))
    >>> work = Work(gets=1, get_bytes=8000, chunks_decoded=1)
    >>> round(seconds_of(work, layout, TARGETS["s3"], Machine()).total, 4)
    0.0212
    """
    ours = layout.store == "zarrvec"
    fetch = _transfer(
        work.gets,
        work.get_bytes,
        latency=target.get_seconds,
        at_once=CONCURRENCY if ours else PLAIN_CONCURRENCY,
        total_rate=target.read_bytes_per_second,
        target=target,
    )
    decode = reading(work, layout, machine.speedup).seconds(machine)
    encode = writing(work, layout, machine.speedup).seconds(machine)
    puts, commit = (work.puts - 1, target.put_seconds) if ours and work.puts else (work.puts, 0.0)
    store = commit + _transfer(
        puts,
        work.put_bytes,
        latency=target.put_seconds,
        at_once=IN_FLIGHT if ours else PLAIN_CONCURRENCY,
        total_rate=target.write_bytes_per_second,
        target=target,
    )
    read = _overlapped(fetch, decode, work.get_bytes)
    written = _overlapped(encode, store, work.chunks_encoded * layout.chunk_bytes)
    return Seconds(
        fetch=fetch, decode=decode, encode=encode, store=store, total=machine.call_seconds + read + written
    )


def dollars_of(work: Work, target: Target) -> float:
    """Return what the requests of a call cost.

    Examples
    --------
    >>> from zarrvec.planner.targets import TARGETS
    >>> round(dollars_of(Work(gets=1000, puts=1000), TARGETS["s3"]), 6)
    0.0054
    """
    return work.gets * target.get_dollars + work.puts * target.put_dollars


def _transfer(
    requests: float, size: float, *, latency: float, at_once: int, total_rate: float, target: Target
) -> float:
    if requests <= 0:
        return 0.0
    waves = max(1.0, requests / min(at_once, target.concurrency))
    side_by_side = max(1.0, min(at_once, requests))
    rate = min(total_rate, side_by_side * target.connection_bytes_per_second)
    return latency * waves + max(size / rate, requests * target.request_cpu_seconds)


def _overlapped(first: float, then: float, size: float) -> float:
    """Return the time of two stages of which the second begins when a slice has left the first."""
    slices = max(1.0, size / SLICE_BYTES)
    return (first + then) / slices + max(first, then) * (1 - 1 / slices)
