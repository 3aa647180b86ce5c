"""How does a plan come about: accesses, limits, a search of chunk shapes, a choice of codec and packs?

Source: ``specs/planner.md``.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy.typing as npt

from zarrvec.errors import PlanError
from zarrvec.layout.packing import PACK_BYTES
from zarrvec.planner.access import Access, Pattern, is_positive, is_whole, resolve
from zarrvec.planner.coding import DEFAULT_CODEC, coding_of
from zarrvec.planner.layout import Layout
from zarrvec.planner.limits import Limits, checked, held_lengths, own_chunks
from zarrvec.planner.measuring import Tolerance, checked_sample, measure, tolerance_of
from zarrvec.planner.naive import dask_chunks, zarr_chunks
from zarrvec.planner.plan import Plan
from zarrvec.planner.records import Choice, Codec, Figures, PlannedAccess
from zarrvec.planner.shapes import Chunks, Space, best_shapes, lengths_of, neighbours
from zarrvec.planner.targets import Machine, Target, target_of
from zarrvec.planner.weighing import OBJECTIVES, Objective, Scales
from zarrvec.planner.words import Asked, access_of

MAX_CHUNK_BYTES: Final = 64 << 20
FINALISTS: Final = 6
KEPT_CODECS: Final = 4
"""Codecs that are measured again on other chunks."""
STEPS: Final = 3
"""So often chunks of half and twice the length are tried, each with codecs measured on it, while that brings something."""
PACK_SIZES: Final = (4 << 20, 8 << 20, 16 << 20, 32 << 20, 64 << 20)
WORTH: Final = 0.97
"""Another size of packs than the store's own is chosen if it brings the score below this part."""


def plan(
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    *,
    reads: Sequence[Asked] = (),
    writes: Sequence[Asked] = (),
    sample: npt.ArrayLike | None = None,
    target: str | Target = "s3",
    objective: Objective = "time",
    chunks: Sequence[int] | None = None,
    axes: Sequence[str] | None = None,
    fixed: Mapping[int | str, int] | None = None,
    whole_axes: Sequence[int | str] | None = None,
    max_chunk_bytes: int = MAX_CHUNK_BYTES,
    memory_bytes: int | None = None,
    max_objects: int | None = None,
    lossy: bool = False,
    max_error: float | None = None,
    max_recall_loss: float | None = None,
    calls_per_month: float = 100_000,
    machine: Machine | None = None,
    seed: int = 0,
) -> Plan:
    """Plan the layout of an array: chunks, codec and packs that suit how it is read and written.

    Parameters
    ----------
    shape, dtype
        Of the array. Of one that grows, the shape it is expected to have.
    reads, writes
        Accesses: words such as ``"one frame"``, ``"by episode"``, ``"window of 10"``, ``"random rows of 500"`` or ``"full
        scan"``, `Access` objects, or either with a weight, ``("by episode", 0.1)``. None at all stands for a full scan.
    sample
        A part of the data: as many axes as the array, each at most as long, of its dtype. Codecs are measured on it, and the
        choice among them depends on how fast the machine is at that moment; without it ``zstd`` is planned for, and nothing
        is taken to compress.
    target
        ``"s3"``, ``"s3-express"``, ``"gcs"``, ``"local"``, or what `zarrvec.planner.probe.probe` measured.
    objective
        ``"time"``: mean seconds of an access; ``"cost"``: dollars a month; ``"balanced"``: the product of both.
    chunks
        The user's own, to compare with.
    axes
        Names of the axes, that words, `fixed` and `whole_axes` may use.
    fixed
        Chunk lengths that are given, by axis.
    whole_axes
        Axes that are never split, such as ``(-1,)`` for vectors. None: the last axis of floats and 8-bit integers of two axes
        or more, if every access takes it whole and a vector fits into a chunk; and axes before it in turn while every access takes them
        whole and a chunk of them alone is at most 1 MiB.
    max_chunk_bytes
        The largest chunk, decoded.
    memory_bytes
        The most that a call may need besides its result.
    max_objects
        The most packs that filling the array may leave.
    lossy
        Whether codecs may be chosen that don't give back what was written; without one of the two that follow, values may
        be off by 1 % of the sample's range. For floats, with a sample.
    max_error
        Lossy codecs may be chosen of which no value of the sample comes back farther off than this.
    max_recall_loss
        Lossy codecs may be chosen that lose no more than this of recall@10, by cosine among the vectors of the sample.
    calls_per_month
        Accesses of a month, for what they cost.
    machine
        The computer that reads and writes.
    seed
        Of what is tried at random. One seed gives one plan, if no sample is given.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        If an access, limit, dtype or sample doesn't fit the array, or nothing keeps to the limits.

    Examples
    --------
    >>> frames = plan((500, 200, 3, 224, 224), "u1", reads=["one frame", "window of 10"], writes=["by episode"])
    >>> frames.chunks[0], frames.chunks[2:]
    (1, (3, 224, 224))
    """
    lengths, kind = checked(shape, dtype)
    check_scales(objective, calls_per_month, machine, seed)
    patterns = patterns_of(lengths, reads, writes, axes)
    fill = filling(patterns)
    limits = Limits(max_chunk_bytes=max_chunk_bytes, memory_bytes=memory_bytes, max_objects=max_objects)
    scales = Scales(
        patterns=patterns,
        target=target_of(target),
        machine=machine or Machine(),
        objective=objective,
        calls_per_month=calls_per_month,
        seed=seed,
    )
    held = held_lengths(lengths, kind, patterns, axes, fixed, whole_axes, max_chunk_bytes)
    own = own_chunks(chunks, lengths)
    naive = {"zarr": zarr_chunks(lengths, kind), "dask": dask_chunks(lengths, kind)}
    if own is not None:
        naive["yours"] = own
    space = space_of(lengths, kind.itemsize, patterns, held, max_chunk_bytes, naive.values())
    part = None if sample is None else checked_sample(sample, lengths, kind)
    tolerance = tolerance_of(kind, part, lossy=lossy, max_error=max_error, max_recall_loss=max_recall_loss)
    codec, notes = DEFAULT_CODEC, tuple[str, ...]()
    layout = Layout(shape=lengths, itemsize=kind.itemsize, chunks=lengths, coding=coding_of(codec), fill=fill)
    best, figures = _best(layout, space, scales, limits, list(naive.values()))
    if part is not None:
        codec, best, figures, notes = _with_codec(
            part, best, tolerance, space, scales, limits, list(naive.values())
        )
    best, figures = _packed(best, figures, scales, limits)
    return Plan(
        shape=lengths,
        dtype=kind.str,
        chunks=best.chunks,
        shards=None,
        codec=codec,
        pack_bytes=best.pack_bytes,
        figures=figures,
        others=_others(naive, best, codec, scales),
        accesses=tuple(_planned(pattern) for pattern in patterns),
        target=scales.target,
        objective=objective,
        calls_per_month=calls_per_month,
        seed=seed,
        notes=notes,
    )


def check_scales(objective: object, calls_per_month: object, machine: object, seed: object) -> None:
    """Refuse options by which nothing can be weighed.

    Raises
    ------
    PlanError
        If one of them is none of its kind.
    """
    if objective not in OBJECTIVES:
        raise PlanError(f"objective={objective!r}: expected one of {OBJECTIVES}.")
    if calls_per_month != 0 and not is_positive(calls_per_month):
        raise PlanError(f"calls_per_month={calls_per_month!r}: expected a number of at least 0.")
    if machine is not None and not isinstance(machine, Machine):
        raise PlanError(
            f"machine={machine!r}: expected a Machine, such as `zarrvec.planner.calibrating.calibrated_machine` measures."
        )
    if not is_whole(seed) or seed < 0:
        raise PlanError(f"seed={seed!r}: expected a whole number of at least 0.")


def patterns_of(
    shape: tuple[int, ...], reads: Sequence[Asked], writes: Sequence[Asked], axes: Sequence[str] | None
) -> tuple[Pattern, ...]:
    """Return all accesses, with weights that add up to 1."""
    for name, given in (("reads", reads), ("writes", writes)):
        if isinstance(given, str | Access) or not isinstance(given, Iterable):
            raise PlanError(f"{name}={given!r}: expected a list of accesses, such as [{given!r}].")
    accesses = [access_of(asked, "read", len(shape), axes) for asked in reads]
    accesses += [access_of(asked, "write", len(shape), axes) for asked in writes]
    if not accesses:
        accesses = [access_of("full scan", "read", len(shape), axes)]
    patterns = [resolve(access, shape) for access in accesses]
    total = sum(pattern.weight for pattern in patterns)
    return tuple(replace(pattern, weight=pattern.weight / total) for pattern in patterns)


def filling(patterns: Sequence[Pattern]) -> Pattern | None:
    """Return the writes that fill the array: the most frequent of those that can; None for a single one."""
    fills = [pattern for pattern in patterns if pattern.fills]
    return max(fills, key=lambda pattern: pattern.weight, default=None)


def space_of(
    shape: tuple[int, ...],
    itemsize: int,
    patterns: Sequence[Pattern],
    held: Mapping[int, int],
    max_chunk_bytes: int,
    given: Collection[Chunks] = (),
) -> Space:
    """Return the chunk shapes that may be tried.

    Raises
    ------
    PlanError
        If the smallest of them is larger than a chunk may be.
    """
    lengths = tuple(
        (held[axis],)
        if axis in held
        else lengths_of(size, patterns, axis, [chunks[axis] for chunks in given])
        for axis, size in enumerate(shape)
    )
    space = Space(shape=shape, itemsize=itemsize, lengths=lengths, max_chunk_bytes=max_chunk_bytes)
    smallest = tuple(along[0] for along in lengths)
    if not space.allows(smallest):
        raise PlanError(
            f"max_chunk_bytes={max_chunk_bytes}: the smallest chunk that fixed and whole axes leave is {smallest}, "
            f"{math.prod(smallest) * itemsize} bytes; allow larger chunks, or let an axis be split."
        )
    return space


def _best(
    layout: Layout, space: Space, scales: Scales, limits: Limits, given: Sequence[Chunks]
) -> tuple[Layout, Figures]:
    """Return the best layout by what is counted, among the best by formulas and those given that are legal."""
    shapes = best_shapes(
        space,
        lambda chunks: scales.quick(layout.with_chunks(chunks)),
        given=given,
        keep=FINALISTS,
        seed=scales.seed,
    )
    legal = [chunks for chunks in given if _is_legal(chunks, space)]
    tried = [layout.with_chunks(chunks) for chunks in dict.fromkeys([*shapes, *legal])]
    weighed = [(one, scales.figures(one)) for one in tried]
    kept = [(one, figures) for one, figures in weighed if not limits.broken_by(figures)]
    if not kept:
        kept = _within(layout, space, scales, limits)
    if not kept:
        broken = limits.broken_by(weighed[0][1])
        raise PlanError(
            f"{broken} with chunks {weighed[0][0].chunks}, and no other keeps to all limits; allow more."
        )
    return min(kept, key=lambda pair: (scales.score(pair[1], pair[0]), pair[0].chunks))


def _with_codec(
    sample: npt.NDArray[Any],
    first: Layout,
    tolerance: Tolerance,
    space: Space,
    scales: Scales,
    limits: Limits,
    given: Sequence[Chunks],
) -> tuple[Codec, Layout, Figures, tuple[str, ...]]:
    """Measure codecs on chunks like those that are best so far, find the best chunks for the best, and measure around these."""
    measured = measure(sample, first.chunks, tolerance)
    ranked = _ranked(measured.codecs, first, scales)
    best, _ = _best(replace(first, coding=coding_of(ranked[0])), space, scales, limits, given)
    names = [codec.name for codec in ranked[:KEPT_CODECS]]
    tried: dict[Chunks, tuple[tuple[float, ...], Codec]] = {}
    chunks = best.chunks
    for _ in range(STEPS):
        for one in {chunks, *neighbours(chunks, space)} - tried.keys():
            layout = replace(best, chunks=one)
            fastest = _ranked(measure(sample, one, tolerance, only=names).codecs, layout, scales)[0]
            layout = replace(layout, coding=coding_of(fastest))
            counted = scales.figures(layout)
            tried[one] = (bool(limits.broken_by(counted)), *scales.score(counted, layout)), fastest
        last, chunks = chunks, min(tried, key=lambda one: (tried[one][0], one))
        if chunks == last:
            break
    codec = tried[chunks][1]
    best = replace(best, chunks=chunks, coding=coding_of(codec))
    others = [replace(best, chunks=other) for other in given if _is_legal(other, space)]
    weighed = [(one, scales.figures(one)) for one in [best, *others]]
    kept = [pair for pair in weighed if not limits.broken_by(pair[1])] or weighed[:1]
    best, figures = min(kept, key=lambda pair: (scales.score(pair[1], pair[0]), pair[0].chunks))
    return codec, best, figures, measured.notes


def _ranked(codecs: Sequence[Codec], layout: Layout, scales: Scales) -> list[Codec]:
    """Return codecs by what they make of a layout, the best first."""
    if not codecs:
        raise PlanError(
            "sample: no codec could encode it, the notes of `zarrvec.planner.measuring.measure` say why."
        )

    def score(codec: Codec) -> tuple[float, ...]:
        return scales.quick(replace(layout, coding=coding_of(codec)))

    return sorted(codecs, key=lambda codec: (score(codec), codec.name))


def _within(layout: Layout, space: Space, scales: Scales, limits: Limits) -> list[tuple[Layout, Figures]]:
    """Look for layouts among all sizes that keep to limits which the best ones break."""
    found = []
    limit = space.max_chunk_bytes
    smallest = math.prod(along[0] for along in space.lengths) * space.itemsize
    packs = (layout.pack_bytes, PACK_SIZES[-1])
    while limit >= smallest:
        smaller = replace(space, max_chunk_bytes=limit)
        shapes = best_shapes(
            smaller,
            lambda chunks: scales.quick(layout.with_chunks(chunks)),
            given=(),
            keep=2,
            seed=scales.seed,
        )
        for chunks in shapes:
            for pack_bytes in packs:
                one = replace(layout, chunks=chunks, pack_bytes=pack_bytes)
                figures = scales.figures(one)
                if not limits.broken_by(figures):
                    found.append((one, figures))
        limit //= 4
    return found


def _is_legal(chunks: Chunks, space: Space) -> bool:
    return space.allows(chunks) and all(
        len(lengths) > 1 or lengths[0] == chunk for lengths, chunk in zip(space.lengths, chunks, strict=True)
    )


def _packed(layout: Layout, figures: Figures, scales: Scales, limits: Limits) -> tuple[Layout, Figures]:
    """Return the layout with another size of packs where that is worth it."""
    best, score = (layout, figures), scales.score(figures, layout)
    for pack_bytes in PACK_SIZES:
        if pack_bytes == layout.pack_bytes:
            continue
        one = replace(layout, pack_bytes=pack_bytes)
        counted = scales.figures(one)
        scored = scales.score(counted, one)
        if not limits.broken_by(counted) and scored[0] < min(
            score[0], WORTH * scales.score(figures, layout)[0]
        ):
            best, score = (one, counted), scored
    return best


def _others(naive: Mapping[str, Chunks], best: Layout, codec: Codec, scales: Scales) -> tuple[Choice, ...]:
    """Return what is predicted of the naive choices, on a zarrvec store and, of zarr's, on a plain one."""
    layouts = {name: replace(best, chunks=chunks, pack_bytes=PACK_BYTES) for name, chunks in naive.items()}
    layouts["zarr, plain store"] = replace(layouts["zarr"], store="plain")
    return tuple(
        Choice(
            name=name,
            chunks=layout.chunks,
            shards=None,
            store=layout.store,
            pack_bytes=layout.pack_bytes,
            codec=codec,
            figures=scales.figures(layout),
        )
        for name, layout in layouts.items()
    )


def _planned(pattern: Pattern) -> PlannedAccess:
    return PlannedAccess(
        name=pattern.name,
        kind=pattern.kind,
        weight=pattern.weight,
        lengths=pattern.lengths,
        starts=pattern.starts,
        aligned=pattern.aligned,
        scattered=pattern.scattered,
        axis=pattern.axis,
    )
