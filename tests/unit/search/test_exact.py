"""Is exact search right at its edges, on real data, within its memory, with one read of each chunk?"""

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

from zarrvec.errors import OptionError, SearchError
from zarrvec.search.exact import search_exact
from zarrvec.search.metrics import METRICS

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "text_minilm"


def array_of(data, chunks=None, **options):
    data = np.asarray(data)
    return zarr.create_array(
        options.pop("store", MemoryStore()), data=data, chunks=chunks or data.shape, **options
    )


ROWS = np.array([[1, 0], [0, 2], [3, 3], [0, 0]], "f4")


class CountingStore(WrapperStore[Any]):
    def __init__(self, store):
        super().__init__(store)
        self.gets: Counter[str] = Counter()

    async def get(self, key, prototype, byte_range=None):
        self.gets[key] += 1
        return await self._store.get(key, prototype, byte_range)


@pytest.fixture(scope="module")
def minilm():
    return (
        np.load(REAL / "base.npy", mmap_mode="r"),
        np.load(REAL / "query.npy"),
        np.load(REAL / "gt_cosine.npz"),
    )


@pytest.mark.skipif(not REAL.exists(), reason="the shared data is not beside this checkout")
@pytest.mark.parametrize("metric", METRICS)
def test_real_embeddings(minilm, metric):
    base, queries, truth = minilm
    array = array_of(base, (1000, 384), compressors=None)
    hits = search_exact(array, queries[:100], k=100, metric=metric, memory_bytes=64 << 20)
    assert hits.stats.vectors == 32000
    assert hits.stats.chunks_read == 32
    similarity = -hits.distances if metric == "ip" else 1 - hits.distances / (2 if metric == "l2" else 1)
    # unit vectors to single precision: all three metrics order them alike up to that
    np.testing.assert_allclose(similarity, truth["scores"][:100], atol=2e-6)
    for ids, expected, scores, mine in zip(hits.ids, truth["ids"], truth["scores"], similarity, strict=False):
        certain = expected[scores > scores[-1] + 2e-6]
        assert np.isin(certain, ids).all()
        assert (mine >= scores[-1] - 2e-6).all()


def test_single_query_has_no_batch_axis():
    array = array_of(ROWS.reshape(2, 2, 2))
    hits = search_exact(array, [1, 1], k=3, metric="l2", include_vectors=True)
    assert hits.ids.shape == hits.distances.shape == hits.indices[1].shape == (3,)
    assert hits.vectors is not None
    assert hits.vectors.tolist() == ROWS[hits.ids].tolist()
    batch = search_exact(array, [[1, 1]], k=3, metric="l2", include_vectors=True)
    assert batch.ids.tolist() == [hits.ids.tolist()]
    assert batch.vectors is not None
    assert batch.vectors.shape == (1, 3, 2)
    assert [str(part.dtype) for part in hits.indices] == ["int64", "int64"]
    assert (str(hits.ids.dtype), str(hits.distances.dtype)) == ("int64", "float32")


def test_ties_go_to_the_lower_id_across_blocks():
    array = array_of(np.ones((9, 5, 2), "f4"), (2, 2, 2))
    for memory in (1, 1 << 20):
        hits = search_exact(array, [1, 2], k=7, metric="l2", memory_bytes=memory)
        assert hits.ids.tolist() == list(range(7))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_never_match(metric, bad):
    data = np.concatenate([ROWS, [[bad, 1], [1, bad]], ROWS]).astype("f4")
    hits = search_exact(array_of(data, (3, 2)), [[1, 1], [0, -1]], k=10, metric=metric)
    assert hits.ids.shape == (2, 8)
    assert not np.isin(hits.ids, [4, 5]).any()
    assert hits.stats.vectors == 8
    none = search_exact(
        array_of(np.full((3, 2), bad, "f4")), [1, 1], k=2, metric=metric, include_vectors=True
    )
    assert none.ids.shape == (0,)
    assert none.vectors is not None
    assert none.vectors.shape == (0, 2)


def test_zero_vectors_under_cosine():
    hits = search_exact(array_of(ROWS), [[0, 0], [0, -1]], k=4, metric="cosine")
    assert hits.distances[0].tolist() == [1, 1, 1, 1]
    assert hits.ids[0].tolist() == [0, 1, 2, 3]
    assert hits.ids[1].tolist() == [0, 3, 2, 1]


@pytest.mark.parametrize(
    ("queries", "what"),
    [
        ([1, 2, 3], "width 3"),
        ([[1, np.nan]], "query 0"),
        ([[0, 0], [np.inf, 1]], "query 1"),
        (np.ones((1, 1, 2)), "shape"),
        (1.0, "shape"),
        ([[1, 2], [3]], "width"),
        ([1j, 0], "complex"),
        (["a", "b"], "real numbers"),
    ],
)
def test_wrong_queries(queries, what):
    with pytest.raises(SearchError, match=what):
        search_exact(array_of(ROWS), queries, k=1, metric="l2")


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None])
def test_wrong_k(k):
    with pytest.raises(SearchError, match="k="):
        search_exact(array_of(ROWS), [1, 1], k=k, metric="l2")


def test_more_hits_than_rows_are_all_rows():
    hits = search_exact(array_of(ROWS), [[1, 1]], k=10**12, metric="l2")
    assert hits.ids.tolist() == [[0, 1, 3, 2]]


@pytest.mark.parametrize("shape", [(0, 2), (3, 0, 2)])
def test_empty_arrays(shape):
    array = zarr.create_array(MemoryStore(), shape=shape, dtype="f4", chunks=tuple(max(1, n) for n in shape))
    hits = search_exact(array, [[1, 1], [2, 2]], k=3, metric="l2", include_vectors=True)
    assert hits.ids.shape == (2, 0)
    assert len(hits.indices) == len(shape) - 1
    assert hits.vectors is not None
    assert hits.vectors.shape == (2, 0, 2)
    assert hits.stats.chunks_read == 0
    assert "2 queries, k=0" in repr(hits)


def test_no_queries():
    hits = search_exact(array_of(ROWS), np.empty((0, 2)), k=3, metric="l2")
    assert hits.ids.shape == (0, 3)
    assert len(hits) == 0


@pytest.mark.parametrize("shape", [(), (4,), (4, 0)])
def test_arrays_without_rows_of_vectors(shape):
    array = zarr.create_array(MemoryStore(), shape=shape, dtype="f4", chunks=tuple(max(1, n) for n in shape))
    with pytest.raises(SearchError, match="expected"):
        search_exact(array, [1], k=1, metric="l2")


@pytest.mark.parametrize("dtype", ["i2", "i8", "u4", "bool", "c8"])
def test_unsupported_dtypes(dtype):
    with pytest.raises(SearchError, match="float16"):
        search_exact(array_of(ROWS.astype(dtype)), [1, 1], k=1, metric="l2")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", "i1", "u1"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_supported_dtypes(dtype, zarr_format):
    array = array_of(ROWS.astype(dtype), (3, 2), zarr_format=zarr_format)
    hits = search_exact(array, [[0, 1]], k=4, metric="l2", include_vectors=True)
    assert hits.ids.tolist() == [[1, 3, 0, 2]]
    assert hits.distances.tolist() == [[1, 1, 2, 13]]
    assert hits.vectors is not None
    assert hits.vectors[0].tolist() == ROWS[hits.ids[0]].tolist()
    assert hits.vectors.dtype.isnative


@pytest.mark.parametrize("wrong", [{"metric": "hamming"}, {"memory_bytes": 0}, {"memory_bytes": "1GB"}])
def test_wrong_options(wrong):
    with pytest.raises(OptionError, match="|".join(wrong)):
        search_exact(array_of(ROWS), [1, 1], k=1, **({"metric": "l2"} | wrong))


def test_where():
    array = array_of(ROWS.reshape(2, 2, 2), (1, 1, 2))
    expected = [1, 3]
    where: object
    for where in (
        [[False, True], [False, True]],
        np.array([False, True, False, True]),
        [3, 1, 1],
        np.array([3, 1], "u8"),
        slice(1, None, 2),
        slice(-3, None, 2),
    ):
        hits = search_exact(array, [0, 2], k=4, metric="l2", where=where)
        assert hits.ids.tolist() == expected
        assert hits.stats.vectors == 2
        assert hits.stats.chunks_read == 2
    no_rows: list[object] = [[], slice(0, 0), np.zeros((2, 2), bool)]
    for where in no_rows:
        assert search_exact(array, [0, 2], k=4, metric="l2", where=where).ids.shape == (0,)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ([4], "ids hold 4"),
        ([-1], "ids hold -1"),
        ([1.0], "float64"),
        (np.zeros(3, bool), "mask of shape"),
        ([[0, 1]], "1-D"),
        ("a", "expected"),
        (slice("a", None), "slice"),
        ([[1], [1, 2]], "ragged"),
        (lambda block: block, "index"),
    ],
)
def test_wrong_where(where, what):
    with pytest.raises(SearchError, match=what):
        search_exact(array_of(ROWS), [1, 1], k=1, metric="l2", where=where)


@pytest.mark.parametrize("chunks", [(7, 3), (7, 8)])
@pytest.mark.parametrize("memory", [1, 4000, 1 << 24])
@pytest.mark.parametrize("where", [None, slice(0, 60), [3, 99], slice(0, 100, 2)])
def test_each_chunk_is_read_once(chunks, memory, where):
    data = np.random.default_rng(0).normal(size=(100, 8)).astype("f4")
    store = CountingStore(MemoryStore())
    array = array_of(data, chunks, store=store)
    store.gets.clear()
    hits = search_exact(
        array, data[:3], k=5, metric="l2", where=where, include_vectors=True, memory_bytes=memory
    )
    assert set(store.gets.values()) == {1}
    assert len(store.gets) == hits.stats.chunks_read
    rows = range(100) if where is None else np.arange(100)[where]
    assert len(store.gets) == len({row // 7 for row in rows}) * -(-8 // chunks[1])


@pytest.mark.parametrize(
    ("metric", "dtype", "where"), [("l2", "f4", "mask"), ("cosine", "f8", None), ("ip", "u1", None)]
)
def test_memory_stays_within_the_documented_bound(metric, dtype, where):
    rng = np.random.default_rng(0)
    rows = (8 << 20) // (128 * np.dtype(dtype).itemsize)
    data = rng.integers(0, 255, size=(rows, 128), dtype="u1").astype(dtype)
    array = array_of(data, (512, 128))
    queries, k, memory = data[:50].astype("f8"), 10, 2 << 20
    mask = None if where is None else rng.random(rows) < 0.7
    del data
    search_exact(array, queries[:1], k=1, metric=metric, where=slice(0, 1))  # imports and first-time caches
    tracemalloc.start()
    try:
        search_exact(array, queries, k, metric=metric, where=mask, include_vectors=True, memory_bytes=memory)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    vectors = 50 * k * 128 * np.dtype(dtype).itemsize
    assert peak <= memory + 48 * queries.size + 100 * 50 * k + 3 * vectors


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "kind", ["duplicates", "offset", "clusters", "padded", "huge", "tiny", "approaching"]
)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_hard_data_equals_the_definition(metric, kind, dtype):
    rng = np.random.default_rng(3)
    data = rng.normal(size=(600, 24))
    if kind == "duplicates":
        data[:] = data[0]
    elif kind == "offset":
        data = data * 1e-3 + 1e4
    elif kind == "clusters":
        data = np.where(np.arange(600)[:, None] % 2, 1e3, -1e3) + data * 1e-3
    elif kind == "padded":
        data[50:] = 0
    elif kind == "huge":
        data *= 1e37 if dtype == "f4" else 1e200
    elif kind == "tiny":
        data *= 1e-42 if dtype == "f4" else 1e-200
    else:
        data *= np.linspace(10, 0.1, 600)[:, None]
    data = data.astype(dtype)
    queries = np.concatenate([data[[0, 7, 599]].astype("f8"), rng.normal(size=(2, 24))])
    array = array_of(data, (64, 24))
    everything = search_exact(array, queries, k=600, metric=metric)  # every row measured in float64
    few = search_exact(array, queries, k=5, metric=metric)  # bounds from the tile itself
    assert few.ids.tolist() == everything.ids[:, :5].tolist()
    hits = search_exact(
        array, queries, k=60, metric=metric, memory_bytes=1 << 16
    )  # bounds from earlier tiles
    assert hits.ids.tolist() == everything.ids[:, :60].tolist()
    if kind in ("huge", "tiny"):
        return
    wide = data.astype("f8")
    with np.errstate(invalid="ignore"):
        unit = wide / np.where(wide.any(axis=1), np.linalg.norm(wide, axis=1), 1)[:, None]
        truth = {
            "l2": ((wide[None] - queries[:, None]) ** 2).sum(axis=2),
            "ip": -(queries @ wide.T),
            "cosine": 1 - (queries / np.maximum(np.linalg.norm(queries, axis=1), 1e-300)[:, None]) @ unit.T,
        }[metric]
    near = np.take_along_axis(truth, hits.ids, axis=1)
    np.testing.assert_allclose(near, np.sort(truth, axis=1)[:, :60], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(hits.distances, near, rtol=1e-6, atol=1e-12)


def test_a_failing_read_reaches_the_caller():
    class Broken(CountingStore):
        async def get(self, key, prototype, byte_range=None):
            if key.endswith("c/3/0"):
                raise OSError("gone")
            return await super().get(key, prototype, byte_range)

    store = MemoryStore()
    array_of(np.ones((50, 2), "f4"), (10, 2), store=store)
    array = zarr.open_array(Broken(store), mode="r")
    with pytest.raises(OSError, match="gone"):
        search_exact(array, [1, 1], k=1, metric="l2", memory_bytes=1)
