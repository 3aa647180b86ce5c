"""How fast is this machine at what the client does: calls, chunks, bytes, cells?

Small arrays in memory are written and read through zarr, in layouts that differ in what takes the time, and the prices in
`zarrvec.planner.targets.Machine` are fitted to the times. Takes a few seconds.

Source: ``specs/planner.md``, section "Calibration".
"""

import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import get_codec

from zarrvec.objects.memory import forget_memory_objects
from zarrvec.planner.access import Access, Pattern, resolve
from zarrvec.planner.coding import coding_of
from zarrvec.planner.counting import count_call
from zarrvec.planner.effort import Effort, reading, writing
from zarrvec.planner.layout import Layout
from zarrvec.planner.measuring import Tolerance, measure
from zarrvec.planner.records import Codec
from zarrvec.planner.targets import Machine

REPEATS: Final = 5
"""Each access is timed so often, by turns; the least counts, since others only ever add to a time."""
EQUAL_CELLS: Final = 16
"""So many neighbours are equal, so that codecs have something to do."""
BLOCKS: Final = 32
"""Of 256 KiB, decoded by one thread and by all."""
DEFAULT_WEIGHT: Final = 0.02
"""Of the default price beside the times, all taken as relative errors: it stands where nothing was learnt."""
PRICES: Final = tuple(field.name for field in fields(Machine) if field.name.endswith("_seconds"))
"""Fields of `Machine` that are fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """An array, and how it is filled and read."""

    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    codec: str
    write: int
    """Cells along the first axis that each write takes."""
    reads: tuple[Access, ...] = ()


_FULL: Final = Access("read", (None,))
_TRIALS: Final = (
    _Trial(shape=(4, 64), dtype="f4", chunks=(4, 64), codec="raw", write=4, reads=(_FULL,)),
    _Trial(
        shape=(1024, 1024), dtype="f4", chunks=(1, 1024), codec="raw", write=1024,
        reads=(_FULL, Access("read", (128, None)), Access("read", (1, None), scattered=64)),
    ),
    _Trial(shape=(1024, 1024), dtype="f4", chunks=(2, 1024), codec="zstd-1", write=128, reads=(_FULL,)),
    _Trial(
        shape=(16, 1024, 16), dtype="u1", chunks=(4, 64, 4), codec="raw", write=16,
        reads=(Access("read", (1, ...), scattered=4),),
    ),
    _Trial(
        shape=(8, 1 << 20), dtype="u1", chunks=(2, 1 << 20), codec="raw", write=8,
        reads=(_FULL, Access("read", (1, None)), Access("read", (None, 1))),
    ),
    _Trial(shape=(8, 1 << 20), dtype="u1", chunks=(8, 1 << 19), codec="raw", write=2, reads=(Access("read", (4, None)),)),
    _Trial(
        shape=(8, 1 << 18), dtype="f4", chunks=(8, 1 << 17), codec="raw", write=8,
        reads=(_FULL, Access("read", (1, None)), Access("read", (None, 1))),
    ),
    _Trial(
        shape=(64, 128, 1024), dtype="u1", chunks=(4, 128, 1024), codec="zstd-1", write=16,
        reads=(_FULL, Access("read", (None, 1, 1)), Access("read", (1, ...), scattered=8)),
    ),
    _Trial(shape=(512, 1024, 4), dtype="u1", chunks=(128, 1024, 2), codec="zstd-1", write=512, reads=(_FULL,)),
    _Trial(shape=(64, 64, 1024), dtype="u1", chunks=(64, 64, 32), codec="raw", write=64, reads=(_FULL,)),
)  # fmt: skip


def calibrated_machine() -> Machine:
    """Measure this machine, as it is at this moment, for ``machine=`` of `zarrvec.plan`.

    Returns
    -------
    Machine

    Examples
    --------
    >>> machine = calibrated_machine()
    >>> 0 < machine.call_seconds < 1
    True
    """
    machine = Machine()
    machine = replace(machine, speedup=_speedup(machine.threads))
    prepared = [_prepared(trial) for trial in _TRIALS]
    turns = [[seconds for one in prepared for seconds in _turn(one)] for _ in range(REPEATS)]
    efforts = [effort for one in prepared for effort in _efforts(one, machine.speedup)]
    return fitted(efforts, np.min(turns, axis=0).tolist(), machine)


def fitted(efforts: Sequence[Effort], taken: Sequence[float], default: Machine) -> Machine:
    """Return the machine whose prices, none below 0, explain times with the least relative errors.

    Parameters
    ----------
    efforts
        Of some calls.
    taken
        Seconds of each.
    default
        Its prices stand where the calls say nothing.

    Examples
    --------
    >>> effort = Effort(codec_seconds=1e-3, amounts={"chunk_read_seconds": 100})
    >>> machine = fitted([effort] * 9, [6e-3] * 9, Machine())
    >>> round(1e3 * (machine.call_seconds + effort.seconds(machine)))
    6
    """
    prices = np.array([getattr(default, name) for name in PRICES])
    own = np.array(
        [[1.0 if name == "call_seconds" else effort.amounts.get(name, 0.0) for name in PRICES] for effort in efforts]
    )  # fmt: skip
    seconds = np.asarray(taken)
    left = np.maximum(0.0, seconds - [effort.codec_seconds for effort in efforts])
    matrix = np.vstack([own * prices / seconds[:, None], DEFAULT_WEIGHT * np.eye(len(PRICES))])
    wanted = np.concatenate([left / seconds, np.full(len(PRICES), DEFAULT_WEIGHT)])
    factors = _least_squares(matrix, wanted)
    return replace(default, **dict(zip(PRICES, (factors * prices).tolist(), strict=True)))


def _least_squares(
    matrix: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the solution with no negative part: what would be most negative is left out in turn."""
    kept = np.ones(matrix.shape[1], dtype=bool)
    result = np.zeros(matrix.shape[1])
    while kept.any():
        found = np.linalg.lstsq(matrix[:, kept], wanted, rcond=None)[0]
        if found.min() >= 0:
            result[kept] = found
            break
        kept[np.flatnonzero(kept)[found.argmin()]] = False
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    data: npt.NDArray[Any]
    codec: Codec
    layout: Layout
    calls: list[tuple[Pattern, int, list[Any]]]
    """Which of the writes that fill the array, or -1; the cells along each axis."""


def _prepared(trial: _Trial) -> _Prepared:
    size = math.prod(trial.shape)
    cells = np.random.default_rng(0).integers(1, 200, size=-(-size // EQUAL_CELLS), dtype=np.uint8)
    data = np.repeat(cells, EQUAL_CELLS)[:size].reshape(trial.shape).astype(trial.dtype)
    codecs = measure(data, trial.chunks, Tolerance(), only=[trial.codec]).codecs
    codec = next(one for one in codecs if one.name == trial.codec)
    write = resolve(Access("write", (trial.write, ...)), trial.shape)
    rest = [(0, length) for length in trial.shape[1:]]
    calls: list[tuple[Pattern, int, list[Any]]] = [
        (write, number, [(first, first + trial.write), *rest])
        for number, first in enumerate(range(0, trial.shape[0], trial.write))
    ]
    for access in trial.reads:
        pattern = resolve(access, trial.shape)
        spans: list[Any] = [(0, length) for length in pattern.lengths]
        if pattern.scattered:
            spans[0] = np.arange(0, trial.shape[0], trial.shape[0] // pattern.scattered, dtype=np.int64)
        calls.append((pattern, -1, spans))
    layout = Layout(
        shape=trial.shape, itemsize=data.itemsize, chunks=trial.chunks, coding=coding_of(codec), fill=write
    )
    return _Prepared(data=data, codec=codec, layout=layout, calls=calls)


def _efforts(prepared: _Prepared, speedup: float) -> Iterator[Effort]:
    """Yield all that the client does for each call."""
    for pattern, number, spans in prepared.calls:
        work = count_call(prepared.layout, pattern, spans, number=number)
        read, written = reading(work, prepared.layout, speedup), writing(work, prepared.layout, speedup)
        yield Effort(
            codec_seconds=read.codec_seconds + written.codec_seconds, amounts=read.amounts | written.amounts
        )


def _turn(prepared: _Prepared) -> Iterator[float]:
    """Write and read an array; yield the seconds of each call."""
    name = f"calibration-{secrets.token_hex(8)}"
    array: Any = zarr.create_array(
        f"zarrvec::memory://{name}",
        shape=prepared.data.shape,
        dtype=prepared.data.dtype,
        chunks=prepared.layout.chunks,
        storage_options={"zarrvec": {"max_staleness": 600}},
        **prepared.codec.options(3),
    )
    try:
        for pattern, _, spans in prepared.calls:
            selection = tuple(slice(*span) if isinstance(span, tuple) else span for span in spans)
            if pattern.kind == "write":
                yield _seconds(partial(array.__setitem__, selection, prepared.data[selection]))
            else:
                chosen = array.oindex if pattern.scattered else array
                yield _seconds(partial(chosen.__getitem__, selection))
    finally:
        forget_memory_objects(name)


def _speedup(threads: int) -> float:
    """Return how much sooner some chunks are decoded by threads than by one; other processes, and quotas, take of it."""
    make: Any = get_codec
    codec = make({"id": "zstd", "level": 1})
    block = codec.encode(np.random.default_rng(0).integers(64, size=256 << 10, dtype=np.uint8))
    taken = dict.fromkeys((1, threads), math.inf)
    for _ in range(REPEATS):
        for workers in taken:
            with ThreadPoolExecutor(workers) as pool:
                taken[workers] = min(taken[workers], _seconds(partial(_decode, codec, block, pool)))
    return float(min(threads, max(1.0, taken[1] / taken[threads])))


def _decode(codec: Any, block: bytes, pool: ThreadPoolExecutor) -> None:
    list(pool.map(codec.decode, [block] * BLOCKS))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
