"""Is the recall had that is asked for, and written down, where rows are not spread about 0 as most are?"""

import numpy as np
import pytest
import zarr

from zarrvec.search.metrics import METRICS
from zarrvec.search.truth import Truth

pytestmark = pytest.mark.once

K = 10
ROWS, WIDTH = 5000, 16


def spread(seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, WIDTH))


def far(offset, scale):
    return offset + scale * spread()


def one_far_from_all(where):
    rows = spread().astype("f4")
    rows[7] = where
    return rows


def times_beside_numbers():
    rows = spread()
    rows[:, 0] = 1.7e9 + np.random.default_rng(1).integers(0, 3 * 10**7, ROWS)
    return rows


def mostly_nothing(share):
    rows = spread().astype("f4")
    rows[np.random.default_rng(1).random(ROWS) < share] = 0
    return rows


L2 = {
    "1e5 + 1e-3": lambda: far(1e5, 1e-3),
    "1.7e9 + 1": lambda: far(1.7e9, 1),
    "one at 1e6": lambda: one_far_from_all(1e6),
    "one at 1e10": lambda: one_far_from_all(1e10),
    "one at 1e17": lambda: one_far_from_all(1e17),
    "times": times_beside_numbers,
}
ALL = {
    "85 % nothing": lambda: mostly_nothing(0.85),
    "98 % nothing": lambda: mostly_nothing(0.98),
    "1e-12": lambda: far(0, 1e-12),
    "1e-25": lambda: far(0, 1e-25),
}
CASES = [
    *((metric, name, 1 << 30) for metric in METRICS for name in {**ALL, **(L2 if metric == "l2" else {})}),
    *(("l2", name, 1 << 20) for name in ("1e5 + 1e-3", "one at 1e10", "times")),  # rows are read twice
]


@pytest.mark.parametrize(("metric", "name", "memory_bytes"), CASES)
def test_recall(metric, name, memory_bytes):
    rows = {**ALL, **L2}[name]()
    array = zarr.create_array({}, data=rows, chunks=(500, WIDTH))
    array.vec.build_index(metric=metric, memory_bytes=memory_bytes)
    queries = rows[np.flatnonzero(rows.any(axis=1))[:300]]
    true = array.vec.search(queries, K, exact=True)
    hits = array.vec.search(queries, K)
    farthest = distances(metric, queries, rows[true.ids]).max(axis=1, keepdims=True)
    near = distances(metric, queries, rows[hits.ids]) <= farthest + 1e-9 * np.abs(
        farthest
    )  # of ties any will do
    assert near.mean() >= 0.93  # 0.95 is asked for, and so many queries tell it to 0.01


def clusters(count, apart, width=32):
    random = np.random.default_rng(2)
    centres = apart * random.normal(size=(count, width))
    return (centres[random.integers(count, size=8000)] + random.normal(size=(8000, width))).astype("f4")


@pytest.mark.parametrize(
    ("metric", "rows", "asked"),
    [
        ("cosine", lambda: (1e5 + clusters(1, 0)).astype("f4"), {"k": 100}),
        ("cosine", lambda: 1e6 + clusters(1, 0).astype("f8"), {"k": 200, "recall": 0.99}),
        ("l2", lambda: clusters(12, 1e3), {}),
        ("l2", lambda: clusters(12, 1e3), {"k": 100, "bits": 4}),
        ("l2", lambda: clusters(1, 0, width=1), {"k": 1, "recall": 0.9}),
    ],
)
@pytest.mark.usefixtures("compiled")
def test_codes_that_tell_little(metric, rows, asked):
    rows = rows()
    array = zarr.create_array({}, data=rows[300:], chunks=(1000, rows.shape[1]))
    array.vec.build_index(metric=metric)
    assert recall_of(array, rows[:300], metric, asked) >= asked.get("recall", 0.95) - 0.02


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.usefixtures("compiled")
def test_queries_that_are_large_where_rows_have_nothing(metric):
    random = np.random.default_rng(0)
    rows, queries = random.normal(size=(8000, 32)), random.normal(size=(700, 32))
    rows[:, 0], queries[:, 0] = 0, 1e4
    array = zarr.create_array({}, data=rows.astype("f4"), chunks=(1000, 32))
    array.vec.build_index(metric=metric, queries=queries[:400])
    assert recall_of(array, queries[400:], metric, {}) >= 0.93


def recall_of(array, queries, metric, asked):
    k = asked.get("k", K)
    hits = array.vec.search(queries, **{"k": k, **asked})
    true = array.vec.search(queries, k, exact=True)
    farthest = distances(metric, queries, array[:][true.ids]).max(axis=1, keepdims=True)
    return (distances(metric, queries, array[:][hits.ids]) <= farthest + 1e-9 * np.abs(farthest)).mean()


def distances(metric, queries, rows):
    """Return the (q, k) distances of queries and k rows of each, in float64."""
    queries, rows = queries.astype("f8")[:, None], rows.astype("f8")
    if metric == "l2":
        return ((queries - rows) ** 2).sum(axis=2)
    products = (queries * rows).sum(axis=2)
    if metric == "ip":
        return -products
    lengths = np.linalg.norm(queries, axis=2) * np.linalg.norm(rows, axis=2)
    return 1 - products / np.where(lengths, lengths, 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1, 1e-3, 1e-6])
def test_true_neighbours_are_those_in_float64(metric, scale):
    """Rows in clusters: their distances are differences of nearly equal numbers."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(20, WIDTH))
    rows = (np.repeat(centres, 50, axis=0) + scale * random.normal(size=(1000, WIDTH))).astype("f4")
    truth = Truth(rows[::10], metric, columns=20)
    for start in range(0, 1000, 300):
        truth.add(np.arange(start, min(1000, start + 300)), rows[start : start + 300])
    wide = rows.astype("f8")
    if metric == "l2":
        expected = np.argsort(distances("l2", wide[::10], wide[None]), axis=1, kind="stable")[:, :20]
        found = (truth.neighbours(None)[0][:, :, None] == expected[:, None]).any(axis=2).mean()
        assert found > (0.99 if scale > 1e-6 else 0.9)  # products in float32 may pass over some
    else:
        products = wide[::10] @ wide.T
        met = np.take_along_axis(products, truth.neighbours(None)[0], axis=1)
        np.testing.assert_allclose(met, -np.sort(-products, axis=1)[:, :20], rtol=1e-5)
