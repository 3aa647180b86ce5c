"""A plan is always legal, never worse by its own model than the naive choices, and the same for one seed."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import zarrvec
from zarrvec.planner.access import Access, resolve
from zarrvec.planner.counting import _places, count_call
from zarrvec.planner.estimating import estimate
from zarrvec.planner.grid import covered_anywhere, touched_anywhere, touched_by_tiles
from zarrvec.planner.layout import Layout


@st.composite
def along(draw):
    size = draw(st.integers(1, 60))
    return size, draw(st.integers(1, size)), draw(st.integers(1, size))


@given(along())
def test_chunks_that_a_run_touches(case):
    size, length, chunk = case
    counts = [(start + length - 1) // chunk - start // chunk + 1 for start in range(size - length + 1)]
    assert math.isclose(touched_anywhere(size, length, chunk), np.mean(counts))
    tiles = [
        (min(start + length, size) - 1) // chunk - start // chunk + 1 for start in range(0, size, length)
    ]
    assert touched_by_tiles(size, length, chunk) == sum(tiles)


@given(along())
def test_chunks_that_a_run_covers(case):
    size, length, chunk = case
    counts = [
        sum(
            start <= at and min(at + chunk, size) <= start + length
            for at in range(0, size, chunk)
        )
        for start in range(size - length + 1)
    ]  # fmt: skip
    assert math.isclose(covered_anywhere(size, length, chunk), np.mean(counts), abs_tol=1e-9)


@st.composite
def accesses(draw, shape, kind):
    extents = tuple(draw(st.one_of(st.none(), st.integers(1, size))) for size in shape)
    scattered = draw(st.sampled_from([0, 0, 0, 3, 20])) if kind == "read" else 0
    axis = draw(st.integers(0, len(shape) - 1))
    start = draw(st.sampled_from(["anywhere", "aligned"]))
    weight = draw(st.floats(0.01, 100))
    return Access(kind, extents, start=start, scattered=scattered, axis=axis, weight=weight)


@st.composite
def problems(draw):
    shape = tuple(draw(st.lists(st.integers(1, 200), min_size=1, max_size=3)))
    reads = draw(st.lists(accesses(shape, "read"), max_size=2))
    writes = draw(st.lists(accesses(shape, "write"), max_size=2))
    return {
        "shape": shape,
        "dtype": draw(st.sampled_from(["u1", "f4", "f8", "M8[s]", "S5"])),
        "reads": reads,
        "writes": writes,
        "target": draw(st.sampled_from(["s3", "s3-express", "gcs", "local"])),
        "objective": draw(st.sampled_from(["time", "cost", "balanced"])),
        "chunks": draw(st.none() | st.tuples(*(st.integers(1, size) for size in shape))),
        "fixed": {0: draw(st.integers(1, shape[0]))} if draw(st.booleans()) else None,
        "seed": draw(st.integers(0, 3)),
    }


@settings(max_examples=8)
@given(problems())
def test_plans(problem):
    plan = zarrvec.plan(**problem)
    size = np.dtype(problem["dtype"]).itemsize
    assert len(plan.chunks) == len(plan.shape)
    assert all(1 <= chunk <= length for chunk, length in zip(plan.chunks, plan.shape, strict=True))
    assert math.prod(plan.chunks) * size <= 64 << 20
    fixed = problem["fixed"] or {}
    assert all(plan.chunks[axis] == length for axis, length in fixed.items())
    for other in plan.others:
        legal = all(other.chunks[axis] == length for axis, length in fixed.items())
        legal = legal and math.prod(other.chunks) * size <= 64 << 20 and other.store == "zarrvec"
        held = [axis for axis in range(len(plan.shape)) if plan.chunks[axis] == plan.shape[axis]]
        if legal and all(other.chunks[axis] == plan.shape[axis] for axis in held):
            assert value(plan.figures, problem) <= value(other.figures, problem) * (1 + 1e-9)
    assert zarrvec.plan(**problem) == plan
    assert zarrvec.Plan.from_json(plan.to_json()) == plan
    assert str(plan.chunks) in plan.explain()


def value(figures, problem):
    if problem["objective"] == "cost":
        return figures.dollars_per_month
    if problem["objective"] == "balanced" and figures.dollars_per_month:
        return math.sqrt(figures.seconds * figures.dollars_per_month)
    return figures.seconds


@settings(max_examples=25)
@given(st.data())
def test_formulas_and_counts_agree_on_chunks(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3)))
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    access = data.draw(accesses(shape, data.draw(st.sampled_from(["read", "write"]))))
    pattern = resolve(access, shape)
    fill = pattern if pattern.fills else None
    layout = Layout(shape=shape, itemsize=1000, chunks=chunks, fill=fill)
    if pattern.scattered:
        return
    places = _places(pattern, 0, 1e-9)
    if math.prod(
        -(-size // length) if pattern.aligned else size - length + 1
        for size, length in zip(shape, pattern.lengths, strict=True)
    ) > 64:  # fmt: skip
        return
    works = [count_call(layout, pattern, spans, number=number) for number, spans in places]
    rough = estimate(layout, pattern)
    touched = rough.chunks_decoded if pattern.kind == "read" else rough.chunks_encoded
    counted = [work.chunks_decoded if pattern.kind == "read" else work.chunks_encoded for work in works]
    assert math.isclose(touched, np.mean(counted))
    if pattern.fills:
        old = [work.chunks_decoded for work in works]
        assert math.isclose(rough.chunks_decoded, np.mean(old), abs_tol=1e-9)
