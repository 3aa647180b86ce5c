"""Would other chunks and codecs suit how a store is really used, and when does the change pay? ``zarrvec.replan``."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.adapt.accesses import accesses_of
from zarrvec.adapt.advice import ArrayReplanned, Replanned, Rewrite
from zarrvec.adapt.rechunk import MEMORY_BYTES
from zarrvec.adapt.target import data_type_of
from zarrvec.codecs.registry import Candidate
from zarrvec.engine.bridge import run_sync
from zarrvec.errors import OptionError, PlanError
from zarrvec.faces.store import ZarrVecStore
from zarrvec.faces.targets import repository_of
from zarrvec.faces.tracing import Trace, below
from zarrvec.faces.tracing import trace as traced
from zarrvec.layout.blocking import plan_blocks
from zarrvec.layout.trace import ArrayTrace
from zarrvec.planner.access import Access, resolve
from zarrvec.planner.coding import coding_of
from zarrvec.planner.cost import dollars_of, seconds_of
from zarrvec.planner.estimating import estimate
from zarrvec.planner.layout import Coding, Layout
from zarrvec.planner.measuring import _coded, _tried, blocks_of
from zarrvec.planner.planning import check_scales, filling, patterns_of, plan
from zarrvec.planner.targets import Machine, Target, target_of
from zarrvec.planner.weighing import Objective, Scales
from zarrvec.repository import Repository
from zarrvec.search.blocks import grid_of

SAMPLE_BYTES: Final = 4 << 20
WORTH: Final = 0.9
"""A change is advised if it brings the objective below this part of what it is."""


def replan(
    source: Any,
    *,
    trace: Trace | str | Path | Iterable[Trace | str | Path] | None = None,
    target: str | Target = "s3",
    objective: Objective = "time",
    sample_bytes: int = SAMPLE_BYTES,
    calls_per_month: float = 100_000,
    machine: Machine | None = None,
    seed: int = 0,
    storage_options: dict[str, Any] | None = None,
    **limits: Any,
) -> Replanned:
    """Say for arrays whether other chunks and codecs suit how they are used, what that saves, and when it pays.

    Parameters
    ----------
    source
        A zarr array, group or store on a zarrvec store, or its URL: the arrays at and below it.
    trace
        What was traced: a `Trace`, a file that `Trace.save` wrote, or several of them, of several processes. None for what
        this process did.
    target, objective, calls_per_month, machine, seed
        As for `zarrvec.plan`.
    sample_bytes
        Of each array, so much is read to measure codecs on.
    storage_options
        For a URL.
    **limits
        Further options of `zarrvec.plan`: ``fixed``, ``whole_axes``, ``max_chunk_bytes``, ``memory_bytes``, ``lossy``, ...

    Returns
    -------
    Replanned

    Raises
    ------
    OptionError
        If nothing was traced.
    NotAStoreError
        If the source is not on a zarrvec store.
    PlanError
        If there is but one array, and it can't be planned; or an option is none of its kind.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frames = zarr.create_array(f"zarrvec://{folder}/data.zarr", shape=(400, 64, 64), chunks=(200, 64, 64), dtype="u1")
    ...     frames[:] = np.random.default_rng(0).integers(0, 256, frames.shape)
    ...     _ = zarrvec.trace(frames, reset=True)
    ...     for number in range(0, 400, 7):
    ...         _ = frames[number]
    ...     advice = zarrvec.replan(frames, target="s3")[""]
    >>> advice.worth, advice.chunks, advice.plan.chunks[0] < 200
    (True, (200, 64, 64), True)
    """
    check_scales(objective, calls_per_month, machine, seed)
    repository, path = repository_of(source, storage_options)
    told = traced(source, storage_options) if trace is None else below(Trace.of(trace), path)
    arrays = {name: known for name, known in sorted(told.arrays.items()) if not _is_ours(name)}
    if not arrays:
        run_sync(repository.version())  # if it is no zarrvec store, that is what to say
        raise OptionError(_nothing(repository, path, asked=trace is not None))
    store = ZarrVecStore(Repository(repository.place, at=repository.at, trace=False), read_only=True)
    planned: list[ArrayReplanned] = []
    skipped: dict[str, str] = {}
    for name, known in arrays.items():
        try:
            array = zarr.open_array(StorePath(store, name), mode="r")
        except FileNotFoundError:
            skipped[name] = "it is not there any more"
            continue
        options = {
            "target": target_of(target),
            "objective": objective,
            "calls_per_month": calls_per_month,
            "machine": machine,
            "seed": seed,
            **limits,
        }
        try:
            planned.append(_replanned(array, name, known, sample_bytes, repository.place.pack_bytes, options))
        except PlanError as error:
            if len(arrays) == 1:
                raise
            skipped[name] = str(error)
    return Replanned(arrays=tuple(planned), skipped=skipped)


def _is_ours(path: str) -> bool:
    """Whether an array is a part of a vector index, or a copy that is being made."""
    return ".vec" in path.rpartition("/")[0] or path.endswith(".rechunk")


def _nothing(repository: Repository, path: str, *, asked: bool) -> str:
    where = f"{repository.place.name}{'/' + path if path else ''}"
    if asked:
        return f"{where}: the trace that was given tells of no array there; expected one that was saved while the store was used."
    return (
        f"{where}: nothing was traced. A process traces its own reads and writes, by handles opened with the same URL and "
        "storage_options and without {'zarrvec': {'trace': False}}: read as usual first, or save zarrvec.trace(...) where "
        "that is done and give it as trace=."
    )


def _replanned(
    array: AnyArray,
    path: str,
    known: ArrayTrace,
    sample_bytes: int,
    pack_bytes: int,
    options: dict[str, Any],
) -> ArrayReplanned:
    accesses = accesses_of(known, array.shape)
    if not accesses.operations:
        raise PlanError(
            f"array {path!r} {array.shape}: none of the {accesses.left_out} traced operations can be planned for."
        )
    sample = _sample(array, sample_bytes)
    chunks = tuple(int(cut[1]) if len(cut) > 1 else 1 for cut in grid_of(array).chunks)
    best = plan(
        array.shape,
        array.dtype,
        reads=accesses.reads,
        writes=accesses.writes,
        sample=sample,
        chunks=chunks,
        **{name: value for name, value in options.items() if value is not None},
    )
    coding = _coding(array, sample, chunks)
    patterns = patterns_of(array.shape, accesses.reads, accesses.writes, None)
    scales = Scales(
        patterns=patterns,
        target=options["target"],
        machine=options["machine"] or Machine(),
        objective=options["objective"],
        calls_per_month=options["calls_per_month"],
        seed=options["seed"],
    )
    as_is = Layout(
        shape=array.shape,
        itemsize=np.dtype(array.dtype).itemsize,
        chunks=chunks,
        coding=coding or coding_of(best.codec),
        pack_bytes=pack_bytes,
        fill=filling(patterns),
    )
    to_be = dataclasses.replace(
        as_is, chunks=best.chunks, coding=coding_of(best.codec), pack_bytes=best.pack_bytes
    )
    now = scales.figures(as_is)
    rewrite = _rewrite(array, as_is, to_be, scales)
    saved = now.seconds - best.figures.seconds
    saved_dollars = now.dollars_per_month - best.figures.dollars_per_month
    score_now, score_then = scales.score(now, as_is)[0], scales.score(best.figures, to_be)[0]
    return ArrayReplanned(
        path=path,
        worth=score_then < WORTH * score_now and (best.chunks != chunks or coding is not None),
        operations=accesses.operations,
        left_out=accesses.left_out,
        chunks=chunks,
        codec="" if coding is None else coding.name,
        now=now,
        plan=best,
        rewrite=rewrite,
        pays_after=rewrite.seconds / saved if saved > 0 else None,
        pays_after_months=rewrite.dollars / saved_dollars if saved_dollars > 0 else None,
    )


def _rewrite(array: AnyArray, as_is: Layout, to_be: Layout, scales: Scales) -> Rewrite:
    blocking = plan_blocks(
        grid_of(array).units, to_be.chunks, cells=max(1, MEMORY_BYTES // 2 // as_is.itemsize)
    )
    times = 1.0 if blocking is None else blocking.amplification
    read = estimate(as_is, resolve(Access("read", (...,)), as_is.shape))
    written = estimate(to_be, resolve(Access("write", (...,)), as_is.shape))
    target, machine = scales.target, scales.machine
    return Rewrite(
        seconds=times * seconds_of(read, as_is, target, machine).total
        + seconds_of(written, to_be, target, machine).total,
        requests=times * read.gets + written.puts,
        bytes=times * read.get_bytes + written.put_bytes,
        dollars=times * dollars_of(read, target) + dollars_of(written, target),
        reads_of_each_chunk=times,
    )


def _sample(array: AnyArray, sample_bytes: int) -> npt.NDArray[Any] | None:
    """Read a part of an array: whole along its last axes, from the middle of the first."""
    itemsize = np.dtype(array.dtype).itemsize
    if not sample_bytes or not array.size or np.dtype(array.dtype).hasobject or not itemsize:
        return None
    left = max(1, sample_bytes // itemsize)
    lengths = list(array.shape)
    for axis in reversed(range(array.ndim)):
        lengths[axis] = min(lengths[axis], left)
        left = max(1, left // lengths[axis])
    starts = [(size - length) // 2 for size, length in zip(array.shape, lengths, strict=True)]
    part = array[tuple(slice(at, at + length) for at, length in zip(starts, lengths, strict=True))]
    return np.ascontiguousarray(part)


def _coding(array: AnyArray, sample: npt.NDArray[Any] | None, chunks: Sequence[int]) -> Coding | None:
    """Measure the codecs that an array has on a sample of it; None where they can't be."""
    if sample is None or array.shards is not None:
        return None
    blocks = blocks_of(sample, tuple(chunks))
    prototype = default_buffer_prototype()
    inner: Any = array.async_array
    spec = ArraySpec(
        shape=blocks[0].shape,
        dtype=data_type_of(array),
        fill_value=inner.metadata.fill_value,
        config=inner.config,
        prototype=prototype,
    )
    trial = _coded(
        inner.codec_pipeline, spec, [prototype.nd_buffer.from_numpy_array(block) for block in blocks]
    )
    copies = _tried(Candidate(name="raw"), blocks)  # these are taken off, as of the candidates
    size = sum(block.nbytes for block in blocks)
    codecs = (*array.filters, *array.compressors)
    return Coding(
        name="+".join(type(codec).__name__.removesuffix("Codec").lower() for codec in codecs) or "none",
        ratio=size / trial.stored_bytes,
        encode_seconds=max(0.0, trial.encode_seconds - copies.encode_seconds) / size,
        decode_seconds=max(0.0, trial.decode_seconds - copies.decode_seconds) / size,
    )
