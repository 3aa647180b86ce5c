"""How long is a request to a place, and how fast are bytes, now and from here?

Takes a few seconds, writes at most about 32 MiB below ``refs/probe/`` in the place, and deletes it again. Of large reads as
many are sent at once as the engine's longest read has, 64 MiB in 8 requests, since fewer can't show what a place gives; more
only while each is still as fast as one alone.

Source: ``specs/planner.md``, section "Probe".
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.engine import PROBE_PREFIX, Place
from zarrvec.errors import OptionError
from zarrvec.faces.pipeline import SLICE_BYTES
from zarrvec.faces.targets import repository_of
from zarrvec.objects.opening import LOCAL_PROTOCOLS, open_objects
from zarrvec.objects.protocol import Closable, Objects
from zarrvec.planner.targets import TARGETS, Target

SMALL_BYTES: Final = 4 << 10
LARGE_BYTES: Final = 8 << 20
"""Of a large object, where so much is written in a tenth of the time."""
SMALL_TRIES: Final = 10
LARGE_OBJECTS: Final = 4
WAVE: Final = 64
"""Small reads that are sent at once to see how many go on side by side."""
CONNECTIONS: Final = (8, 16, 32, 64)
"""Large reads that are sent at once; more only where so many are each still as fast as one alone."""
FREE_PART: Final = 0.85
"""Reads that are less fast than this part of what so many alone would be hold one another up."""
READ_AT_ONCE_BYTES: Final = SLICE_BYTES
"""Of all large reads together, as much as the engine has on its way."""
_LEAST_READ_BYTES: Final = 256 << 10
_TURNS: Final = 2
"""Of large reads at once; the first may wait for connections."""
_PRICES: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    small_get: float
    small_put: float
    connection_bytes_per_second: float
    """Of one large read."""
    read_bytes_per_second: float
    """Of many at once."""
    write_bytes_per_second: float
    """Of all large objects at once."""
    wave: float
    cpu: float
    """Of the processor, for a request of the wave."""


def probe(url: str, *, storage_options: dict[str, Any] | None = None, seconds: float = 10.0) -> Target:
    """Measure a place.

    Parameters
    ----------
    url
        Of a store that is there or could be, with or without ``zarrvec``.
    storage_options
        As for ``zarr.open``.
    seconds
        At most about so long; the more is measured the better.

    Returns
    -------
    Target
        For `zarrvec.plan`. Prices are those of the storage's kind.

    Raises
    ------
    OptionError
        If `seconds` is not positive.
    StorageError
        If the place can't be written, or takes longer than `seconds` for the first requests; what was written is deleted.

    Examples
    --------
    >>> target = probe("zarrvec://probed.zarr", seconds=2)
    >>> 0 < target.get_seconds < 1, target.get_dollars
    (True, 0.0)
    """
    if not seconds > 0:
        raise OptionError(f"seconds={seconds}: expected a positive number.")
    place = repository_of(url, storage_options)[0].place
    return target_from(place, run_sync(_measured(place, seconds)))


def target_from(place: Place, measured: _Measured) -> Target:
    """Return what a cost model takes from what was measured."""
    base = TARGETS[_PRICES.get(place.protocol, "local")]
    side_by_side = WAVE * measured.small_get / max(measured.wave, 1e-6)
    return replace(
        base,
        name=place.name,
        get_seconds=measured.small_get,
        put_seconds=measured.small_put,
        connection_bytes_per_second=measured.connection_bytes_per_second,
        read_bytes_per_second=measured.read_bytes_per_second,
        write_bytes_per_second=measured.write_bytes_per_second,
        concurrency=max(1, min(WAVE, round(side_by_side))),
        request_cpu_seconds=measured.cpu,
    )


async def _measured(place: Place, seconds: float) -> _Measured:
    objects = open_objects(place.protocol, place.root, place.options, backend=place.backend, sync=place.sync)
    prefix = f"{PROBE_PREFIX}plan-{secrets.token_hex(8)}-"
    written: list[str] = []
    folders = _new_folders(place)
    try:
        return await asyncio.wait_for(_requests(objects, prefix, written, seconds), timeout=2 * seconds + 1)
    except TimeoutError as error:
        raise OptionError(
            f"{place.name}: took more than {2 * seconds + 1:.0f} s; give the probe more seconds."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            await objects.delete(written)
            for folder in folders:
                folder.rmdir()
        if isinstance(objects, Closable):
            await objects.close()


def _new_folders(place: Place) -> list[Path]:
    """Return the local folders that the first object makes, the innermost first."""
    if place.protocol not in LOCAL_PROTOCOLS:
        return []
    inner = Path(place.root, PROBE_PREFIX)
    return [folder for folder in (inner, *inner.parents) if not folder.exists()]


async def _requests(objects: Objects, prefix: str, written: list[str], seconds: float) -> _Measured:
    ends = time.perf_counter() + seconds
    noise = secrets.token_bytes(1 << 20)

    def path(name: str) -> str:
        written.append(prefix + name)
        return written[-1]

    small = path("small")
    await objects.put(small, noise[:SMALL_BYTES])  # connects
    put = await _median(lambda: objects.put(small, noise[:SMALL_BYTES]), SMALL_TRIES // 2, ends)
    await objects.get_range(small, 0, SMALL_BYTES)
    get = await _median(lambda: objects.get_range(small, 0, SMALL_BYTES), SMALL_TRIES, ends)
    await _timed([lambda: objects.get_range(small, 0, SMALL_BYTES)] * WAVE)  # connects
    began = time.process_time()
    wave = await _timed([lambda: objects.get_range(small, 0, SMALL_BYTES)] * WAVE)
    cpu = (time.process_time() - began) / WAVE
    large = [path(f"large-{number}") for number in range(LARGE_OBJECTS)]
    first = await _timed([partial(objects.put, large[0], noise)])
    affordable = int(_rate(len(noise), first, put) * seconds / 10)
    size = max(1, min(LARGE_BYTES, affordable) >> 20) << 20
    large_puts = await _timed([partial(objects.put, name, noise * (size >> 20)) for name in large])
    one = await _median(lambda: objects.get_range(large[0], 0, size), 3, ends - seconds / 2)
    connection = _rate(size, one, get)
    together = await _read_rate([(name, size) for name in large], objects, connection, get, ends)
    return _Measured(
        small_get=get,
        small_put=put,
        connection_bytes_per_second=connection,
        read_bytes_per_second=together,
        write_bytes_per_second=_rate(len(large) * size, large_puts, put),
        wave=wave,
        cpu=cpu,
    )


async def _read_rate(
    large: Sequence[tuple[str, int]], objects: Objects, one: float, latency: float, ends: float
) -> float:
    """Return the bytes a second of many reads at once: of ever more, while each is about as fast as `one` alone."""
    best = one
    longest = large[0][1]
    for connections in CONNECTIONS:
        affordable = one * max(0.0, ends - time.perf_counter()) / (2 * _TURNS)
        size = int(min(READ_AT_ONCE_BYTES, affordable)) // connections
        size = min(longest, max(_LEAST_READ_BYTES, size))
        pieces = [(name, at * size, size) for at in range(longest // size) for name, _ in large]
        reads = [partial(objects.get_range, *pieces[number % len(pieces)]) for number in range(connections)]
        taken = min([await _timed(reads) for _ in range(_TURNS)])
        rate = _rate(connections * size, taken, latency)
        best = max(best, rate)
        if rate < FREE_PART * connections * one or time.perf_counter() > ends:
            break
    return best


def _rate(size: int, seconds: float, latency: float) -> float:
    """Return bytes a second, once a request has begun to be answered."""
    return size / max(1e-6, seconds - latency)


async def _median(request: Callable[[], Awaitable[object]], tries: int, ends: float) -> float:
    """Return the median time of a request that is made again and again, once at least, until the time is up."""
    taken = []
    for _ in range(tries):
        began = time.perf_counter()
        await request()
        taken.append(time.perf_counter() - began)
        if time.perf_counter() > ends:
            break
    return median(taken)


async def _timed(requests: Sequence[Callable[[], Awaitable[object]]]) -> float:
    """Return how long some requests take that are made at once."""
    began = time.perf_counter()
    await asyncio.gather(*(request() for request in requests))
    return time.perf_counter() - began
