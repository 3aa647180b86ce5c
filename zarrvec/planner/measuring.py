"""What do codecs make of a sample: how small, how fast, how far off?

Source: ``specs/planner.md``, section "Codecs". Each candidate encodes and decodes blocks of the sample that are as large as a chunk,
by zarr's codecs, and the processor's time is taken, so that other processes don't matter; copies, as ``raw`` makes them, are taken off.
"""

import math
import time
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from zarrvec.codecs.registry import Candidate, candidates
from zarrvec.errors import PlanError
from zarrvec.faces.chain import Chain
from zarrvec.planner.records import Codec

SAMPLE_BYTES: Final = 4 << 20
"""Of the sample, as much as this is encoded by each candidate, or one block if that is larger."""
BLOCK_BYTES: Final = 16 << 20
"""A larger block is cut."""
REPEATS: Final = 3
LOSSY_PART: Final = 0.01
"""Of the range of the sample: how far off values may be where lossy codecs are allowed without saying how far."""
RECALL_HITS: Final = 10
RECALL_QUERIES: Final = 100
RECALL_ROWS: Final = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far what is read may be from what was written."""

    max_error: float | None = None
    """Of any value of the sample; None for none."""
    max_recall_loss: float | None = None
    """Of recall@10 among the vectors of the sample; None if it doesn't matter."""

    @property
    def lossless(self) -> bool:
        """Whether nothing may be lost."""
        return self.max_error is None and self.max_recall_loss is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Codecs that may be chosen, and what is to be said of those left out."""

    codecs: tuple[Codec, ...]
    notes: tuple[str, ...]


def checked_sample(sample: npt.ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return a sample that may be one of the array's data.

    Raises
    ------
    PlanError
        If its dtype or axes aren't those of the array.

    Examples
    --------
    >>> checked_sample([[1, 2]], (5, 3), np.dtype("i8")).shape
    (1, 2)
    """
    values = np.asarray(sample)
    if values.dtype != dtype:
        raise PlanError(f"sample: has the dtype {values.dtype}, expected {dtype}, that of the array.")
    if values.ndim != len(shape):
        raise PlanError(
            f"sample: has the shape {values.shape}; expected {len(shape)} axes, as the array {shape} has."
        )
    if any(length < 1 or length > size for length, size in zip(values.shape, shape, strict=True)):
        raise PlanError(
            f"sample: has the shape {values.shape}; expected along each axis at least 1 cell and no more than the array {shape}."
        )
    return values


def tolerance_of(
    dtype: np.dtype[Any],
    sample: npt.NDArray[Any] | None,
    *,
    lossy: bool,
    max_error: float | None,
    max_recall_loss: float | None,
) -> Tolerance:
    """Return how much may be lost.

    Raises
    ------
    PlanError
        If something may be lost of values that are no floats, or without a sample to see how much.
    """
    if not lossy and max_error is None and max_recall_loss is None:
        return Tolerance()
    asked = f"lossy={lossy}, max_error={max_error}, max_recall_loss={max_recall_loss}"
    if dtype.kind != "f":
        raise PlanError(
            f"{asked}: lossy codecs are for floats, the array has the dtype {dtype}; leave these out."
        )
    if sample is None:
        raise PlanError(f"{asked}: how much a codec loses is measured on a sample; give sample=.")
    bounds: dict[str, object] = {"max_error": max_error, "max_recall_loss": max_recall_loss}
    for name, value in bounds.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise PlanError(f"{name}={value}: expected a number of at least 0.")
    if max_error is None and max_recall_loss is None:
        finite = sample[np.isfinite(sample)]
        max_error = LOSSY_PART * float(np.ptp(finite)) if finite.size else 0.0
    return Tolerance(max_error=max_error, max_recall_loss=max_recall_loss)


def measure(
    sample: npt.NDArray[Any],
    chunks: tuple[int, ...],
    tolerance: Tolerance,
    *,
    only: Collection[str] | None = None,
) -> Measured:
    """Measure all candidates that may be chosen.

    Parameters
    ----------
    sample
        As many axes as the array.
    chunks
        Of the array.
    tolerance
        How much may be lost.
    only
        Names of the candidates; None for all.
    """
    blocks = blocks_of(sample, chunks)
    offered = [
        one
        for one in candidates(sample.dtype, chunks)
        if (only is None or one.name in only or one.name == "raw") and not (one.lossy and tolerance.lossless)
    ]
    codecs: list[Codec] = []
    notes: list[str] = []
    base = (0.0, 0.0)
    for one in sorted(offered, key=lambda candidate: candidate.name != "raw"):
        try:
            trial = _tried(one, blocks)
        except Exception as error:  # noqa: BLE001 - whatever a plugin's codec raises, the others stand
            notes.append(f"codec {one.name}: left out, {type(error).__name__}: {error}")
            continue
        if one.name == "raw":
            base = (trial.encode_seconds, trial.decode_seconds)
        size = sum(block.nbytes for block in blocks)
        if one.lossy and (reason := _too_far(blocks, trial.decoded, tolerance)):
            notes.append(f"codec {one.name}: left out, {reason}")
            continue
        codecs.append(
            Codec(
                name=one.name,
                filters=tuple(dict(codec) for codec in one.filters),
                serializer=None if one.serializer is None else dict(one.serializer),
                compressors=tuple(dict(codec) for codec in one.compressors),
                in_format_2=one.in_format_2,
                filters_2=tuple(dict(codec) for codec in one.filters_2),
                compressor_2=None if one.compressor_2 is None else dict(one.compressor_2),
                lossy=one.lossy,
                ratio=size / trial.stored_bytes,
                encode_seconds=max(0.0, trial.encode_seconds - base[0]) / size,
                decode_seconds=max(0.0, trial.decode_seconds - base[1]) / size,
                measured=True,
            )
        )
    return Measured(codecs=tuple(codecs), notes=tuple(notes))


def blocks_of(sample: npt.NDArray[Any], chunks: tuple[int, ...]) -> list[npt.NDArray[Any]]:
    """Cut a few blocks from a sample, each as large as a chunk if the sample is, spread over it.

    Examples
    --------
    >>> [block.tolist() for block in blocks_of(np.arange(6).reshape(3, 2), (2, 2))]
    [[[0, 1], [2, 3]]]
    """
    lengths = [min(chunk, size) for chunk, size in zip(chunks, sample.shape, strict=True)]
    while math.prod(lengths) * sample.itemsize > BLOCK_BYTES:
        axis = next(axis for axis, length in enumerate(lengths) if length > 1)
        lengths[axis] = -(-lengths[axis] // 2)
    size = math.prod(lengths) * sample.itemsize
    starts = [
        range(0, total - length + 1, length) for total, length in zip(sample.shape, lengths, strict=True)
    ]
    places = math.prod(map(len, starts))
    wanted = min(places, max(1, SAMPLE_BYTES // size))
    chosen = {round(number * (places - 1) / max(1, wanted - 1)) for number in range(wanted)}
    blocks = []
    for number in sorted(chosen):
        at = np.unravel_index(number, [len(along) for along in starts])
        cut = tuple(
            slice(along[int(place)], along[int(place)] + length)
            for along, place, length in zip(starts, at, lengths, strict=True)
        )
        blocks.append(np.ascontiguousarray(sample[cut]))
    return blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    stored_bytes: int
    encode_seconds: float
    decode_seconds: float
    decoded: list[npt.NDArray[Any]]


def _tried(candidate: Candidate, blocks: Sequence[npt.NDArray[Any]]) -> _Trial:
    """Encode and decode some blocks by the codecs of a candidate."""
    import zarr
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import default_buffer_prototype

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says of some codecs that they are in no specification yet
        array: Any = zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=blocks[0].shape,
            chunks=blocks[0].shape,
            dtype=blocks[0].dtype,
            **candidate.options(3),
        )._async_array
        prototype = default_buffer_prototype()
        spec = ArraySpec(
            shape=blocks[0].shape,
            dtype=array.metadata.data_type,
            fill_value=array.metadata.fill_value,
            config=array.config,
            prototype=prototype,
        )
        chunks = [prototype.nd_buffer.from_numpy_array(block) for block in blocks]
        with ThreadPoolExecutor(1) as worker:  # where blosc uses one thread, as it does in zarrvec's
            return worker.submit(_coded, array.codec_pipeline, spec, chunks).result()


def _coded(pipeline: Any, spec: Any, chunks: Sequence[Any]) -> _Trial:
    """Encode and decode chunks, in one pass each where all codecs can."""
    from zarr.core.sync import sync

    chain = Chain.of(pipeline)

    def encoded(chunk: Any) -> Any:
        return sync(pipeline.encode([(chunk, spec)]))[0] if chain is None else chain.encode(chunk, spec)

    def decoded(data: Any) -> Any:
        return sync(pipeline.decode([(data, spec)]))[0] if chain is None else chain.decode(data, spec)

    encode = decode = math.inf
    stored: list[Any] = []
    back: list[npt.NDArray[Any]] = []
    for _ in range(REPEATS):
        began = time.process_time()
        stored = [encoded(chunk) for chunk in chunks]
        encode = min(encode, time.process_time() - began)
        began = time.process_time()
        back = [np.array(decoded(data).as_numpy_array()) for data in stored]
        decode = min(decode, time.process_time() - began)
    size = sum(len(data) for data in stored)
    return _Trial(stored_bytes=max(1, size), encode_seconds=encode, decode_seconds=decode, decoded=back)


def _too_far(
    blocks: Sequence[npt.NDArray[Any]], decoded: Sequence[npt.NDArray[Any]], tolerance: Tolerance
) -> str:
    """Return why a lossy codec may not be chosen; empty if it may."""
    if tolerance.max_error is not None:
        worst = 0.0
        for block, back in zip(blocks, decoded, strict=True):
            same = (block == back) | (np.isnan(block) & np.isnan(back))
            with np.errstate(invalid="ignore"):
                away = np.abs(np.where(same, 0, block.astype(np.float64) - back.astype(np.float64)))
            worst = max(worst, float(np.nan_to_num(away, nan=math.inf).max()))
        if worst > tolerance.max_error:
            return f"a value comes back {worst:.3g} off, more than {tolerance.max_error:.3g}"
    if tolerance.max_recall_loss is not None:
        loss = recall_loss(
            np.concatenate([block.reshape(-1, block.shape[-1]) for block in blocks]),
            np.concatenate([back.reshape(-1, back.shape[-1]) for back in decoded]),
        )
        if loss > tolerance.max_recall_loss:
            return f"recall@{RECALL_HITS} falls by {loss:.3g}, more than {tolerance.max_recall_loss:.3g}"
    return ""


def recall_loss(rows: npt.NDArray[Any], decoded: npt.NDArray[Any]) -> float:
    """Return how much of the 10 nearest by cosine is missed when rows are compared as they are decoded.

    Parameters
    ----------
    rows, decoded
        (n, d) floats, as they were and as they came back; up to 4,000 are compared with the first 100.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(300, 8))
    >>> recall_loss(vectors, vectors), recall_loss(vectors, np.round(vectors)) > 0.1
    (0.0, True)
    """
    rows, decoded = rows[:RECALL_ROWS].astype(np.float64), decoded[:RECALL_ROWS].astype(np.float64)
    queries = rows[:RECALL_QUERIES]
    k = min(RECALL_HITS, len(rows))
    true, found = (
        np.argsort(
            -queries @ (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-30)).T, axis=1
        )[:, :k]
        for part in (rows, decoded)
    )
    hits = sum(
        len(set(mine) & set(theirs)) for mine, theirs in zip(true.tolist(), found.tolist(), strict=True)
    )
    return 1 - hits / (k * len(queries))
