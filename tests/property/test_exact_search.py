"""Does exact search equal a float64 sort in numpy, for any shape, chunks, dtype, metric, batch and selection?"""

from typing import Any, cast

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from zarr.storage import MemoryStore

from zarrvec.search.exact import search_exact
from zarrvec.search.metrics import METRICS

DTYPES = ("float16", "float32", "float64", "int8", "uint8")


def oracle(metric, rows, queries):
    """All distances, (q, n) float64, in the plainest way."""
    if metric == "l2":
        return ((queries[:, None] - rows[None]) ** 2).sum(axis=2)
    products = (queries[:, None] * rows[None]).sum(axis=2)
    if metric == "ip":
        return -products
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)[None]
    return np.where(lengths == 0, 1, 1 - products / np.where(lengths == 0, 1, lengths))


def tolerance(metric, rows, queries):
    """What rounding alone may change a float64 distance by, (q, n)."""
    lengths = np.linalg.norm(queries, axis=1)[:, None], np.linalg.norm(rows, axis=1)[None]
    size = {"cosine": 1.0, "ip": lengths[0] * lengths[1], "l2": (lengths[0] + lengths[1]) ** 2}[metric]
    return 1e-14 * np.broadcast_to(size, (len(queries), len(rows)))


def sizeable(floats):
    """No values so small that the plain way underflows."""
    return floats.map(lambda x: x if abs(x) > 1e-30 else 0.0)


@st.composite
def problems(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    leading = draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9))
    width = draw(st.integers(1, 9))
    if dtype.kind == "f":
        top = draw(st.sampled_from([1.0, 1000.0]))
        elements = sizeable(
            st.floats(-top, top, width=cast("Any", dtype.itemsize * 8), allow_subnormal=False)
        )
        if draw(st.booleans()):
            elements |= st.sampled_from([np.nan, np.inf])
    else:
        elements = npst.from_dtype(dtype)
    data = draw(npst.arrays(dtype, (*leading, width), elements=elements, fill=st.just(0)))
    if dtype == np.float64 and draw(st.booleans()):
        data = data * 1e-6 + 1e3  # differences far smaller than what they differ from
    chunks = tuple(draw(st.integers(1, size)) for size in data.shape)
    count = draw(st.integers(1, 4))
    queries = draw(npst.arrays(np.float64, (count, width), elements=sizeable(st.floats(-100, 100))))
    where = draw(
        st.none()
        | npst.arrays(bool, leading)
        | npst.arrays(bool, int(np.prod(leading)))
        | st.lists(st.integers(0, int(np.prod(leading)) - 1), max_size=6)
        | st.builds(slice, st.integers(-9, 9), st.none() | st.integers(-9, 20), st.sampled_from([None, 1, 3]))
    )
    return data, chunks, queries, where


@settings(max_examples=60, deadline=None)
@given(
    problem=problems(),
    metric=st.sampled_from(METRICS),
    k=st.integers(1, 20),
    memory=st.sampled_from([1, 600, 5000, 1 << 20]),
)
def test_equals_numpy(problem, metric, k, memory):
    data, chunks, queries, where = problem
    array = zarr.create_array(MemoryStore(), data=data, chunks=chunks, compressors=None)
    hits = search_exact(
        array, queries, k, metric=metric, where=where, include_vectors=True, memory_bytes=memory
    )

    rows = data.reshape(-1, data.shape[-1]).astype(np.float64)
    selected = np.ones(len(rows), bool) if where is None else np.zeros(len(rows), bool)
    if where is not None:
        flat = where.reshape(-1) if isinstance(where, np.ndarray) else where
        selected[flat if not isinstance(flat, list) else np.array(flat, dtype=int)] = True
    candidates = np.flatnonzero(selected & np.isfinite(rows).all(axis=1))
    columns = min(k, candidates.size)

    assert hits.ids.shape == hits.distances.shape == (len(queries), columns)
    assert (np.diff(hits.distances, axis=1) >= 0).all()
    assert np.isin(hits.ids, candidates).all()
    assert all(np.unique(ids).size == columns for ids in hits.ids)
    np.testing.assert_array_equal(hits.vectors, data.reshape(-1, data.shape[-1])[hits.ids])
    np.testing.assert_array_equal(hits.vectors, data[hits.indices])
    if not columns:
        return
    truth, slack = oracle(metric, rows[candidates], queries), tolerance(metric, rows[candidates], queries)
    position = np.searchsorted(candidates, hits.ids)
    mine, mine_slack = (
        np.take_along_axis(truth, position, axis=1),
        np.take_along_axis(slack, position, axis=1),
    )
    best = np.sort(truth, axis=1)[:, :columns]
    limit = slack.max(axis=1)[:, None]
    assert (np.abs(mine - best) <= 2 * limit).all()
    assert (np.abs(hits.distances - mine) <= 1e-6 * np.abs(mine) + mine_slack + 1e-30).all()


@settings(max_examples=40, deadline=None)
@given(
    data=npst.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 3)),
    chunk=st.integers(1, 8),
    metric=st.sampled_from(["l2", "ip"]),
    k=st.integers(1, 12),
    memory=st.sampled_from([1, 100, 1 << 20]),
)
def test_ties_go_to_the_lower_id(data, chunk, metric, k, memory):
    """Small integers: every distance is exact and many are equal, so the ids are determined."""
    array = zarr.create_array(MemoryStore(), data=data, chunks=(chunk, data.shape[1]), compressors=None)
    queries = data[:2].astype(np.float64)
    hits = search_exact(array, queries, k, metric=metric, memory_bytes=memory)
    truth = oracle(metric, data.astype(np.float64), queries)
    assert hits.ids.tolist() == np.argsort(truth, axis=1, kind="stable")[:, :k].tolist()
