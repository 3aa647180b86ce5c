"""Do bounds hold for every entry, and does exact search by them equal exact search without?"""

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import zarrvec
from zarrvec.search.bounded import TRIED_SHARE
from zarrvec.search.bounds import Gathered, Geometry
from zarrvec.search.depth import Compass
from zarrvec.search.exact import search_exact
from zarrvec.search.metrics import METRICS, pair_distances, unit_rows
from zarrvec.search.quantize import quantize, quantize_centroids
from zarrvec.search.records import Entries, Layout
from zarrvec.search.space import indexed_rows

pytestmark = pytest.mark.usefixtures("quick_builds")

SOME_DTYPES = [("cosine", "f8"), ("l2", "f8"), ("l2", "u1"), ("ip", "i1"), ("cosine", "f2")]
ROWS, WIDTH, CLUSTERS = 2400, 24, 24


def clustered(dtype="f4", rows=ROWS, seed=0, spread=0.1):
    """Rows near some centres, cluster after cluster, so that chunks are clusters."""
    random = np.random.default_rng(seed)
    rows_of = np.repeat(random.normal(size=(CLUSTERS, WIDTH)), -(-rows // CLUSTERS), axis=0)[:rows]
    values = rows_of + spread * random.normal(size=rows_of.shape)
    if np.dtype(dtype).kind == "f":
        return values.astype(dtype)
    return np.clip(np.rint(30 * values + (128 if dtype == "u1" else 0)), *limits(dtype)).astype(dtype)


def limits(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def extremes(case, random):
    near = random.normal(size=(300, WIDTH))
    return {
        "plain": near,
        "far from 0": near + 1e4,
        "tiny": near * 1e-12,
        "nearly nothing": near * 1e-30,
        "huge": near * 1e15,
        "of all lengths": near * 10.0 ** random.integers(-20, 15, (300, 1)),
        "duplicates": np.repeat(near[:3], 100, axis=0),
        "zeros": np.where(random.random((300, 1)) < 0.5, 0, near),
        "one component": np.eye(WIDTH)[random.integers(0, WIDTH, 300)],
    }[case]


CASES = (
    "plain", "far from 0", "tiny", "nearly nothing", "huge", "of all lengths", "duplicates", "zeros", "one component"
)  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_bounds_hold(metric, case, dtype):
    random = np.random.default_rng(1)
    rows = extremes(case, random).astype(dtype)
    origin = rows.mean(axis=0).astype("f4") if metric == "l2" else None
    vectors, kept = indexed_rows(rows, metric, origin)
    assert kept.all()
    codes, scales = quantize_centroids(vectors[:5] * np.float32(0.9))
    centroids = codes.astype("f4") * scales[:, None]
    layout = Layout(width=WIDTH, id_bytes=4, has_norms=metric == "l2")
    queries = np.concatenate([rows[::40].astype("f8"), rows[:7] * 1.001, random.normal(size=(3, WIDTH))])
    queries = queries[np.linalg.norm(queries, axis=1) > 0]
    geometry = Geometry(Compass.of(centroids, np.ones(5, "f4"), metric), origin, queries)
    measured = queries if metric == "l2" else unit_rows(queries)[0]
    for place in range(5):
        around = np.broadcast_to(centroids[place], vectors.shape)
        coded = quantize(vectors, around)
        stored = Entries(np.arange(300, dtype="u4"), coded.scales, coded.errors, coded.norms, coded.codes)
        entries = layout.unpack(
            layout.pack(stored._replace(norms=coded.norms if layout.has_norms else None)), 300
        )
        centres = geometry.centres(slice(None))
        taken = Gathered.of(entries, centres.vectors[place], place, np.ones(300, dtype=bool))
        lower, upper = geometry.of_entries(centres, taken, slice(None))
        radii = np.linalg.norm(vectors - around, axis=1)
        of_lists = geometry.of_lists(centres, np.full(5, radii.max(), dtype="f8"))[:, place]
        query, row = np.divmod(np.arange(len(queries) * 300), 300)
        true = pair_distances(metric, rows, row, measured, query).reshape(len(queries), 300)
        assert (lower <= true).all()
        assert (true <= upper).all()
        assert (of_lists[:, None] <= true).all()
        if case == "plain":
            assert np.median(upper - lower) < {"cosine": 0.02, "l2": 1.2, "ip": 0.15}[metric]


@pytest.fixture
def root(tmp_path):
    return zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="a")


def indexed(root, data, metric, *, chunks=100, name="emb", **options):
    data = np.asarray(data)
    shape = (chunks, *data.shape[1:])
    array = root.create_array(
        name, shape=data.shape, chunks=shape, dtype=data.dtype, compressors=None, **options
    )
    array[...] = data
    array.vec.build_index(metric=metric)
    warm(array)
    return array


def warm(array):
    """Bring all lists into memory, so that it is worth it to look at the bounds of a small array."""
    array.vec.search(np.ones(array.shape[-1]), k=1, nprobe=10**6)


def both(array, queries, k=10, *, metric, where=None, gone=(), **options):
    """Search with bounds, and check against all rows."""
    hits = array.vec.search(queries, k, exact=True, where=where, **options)
    mask = np.ones(array.shape[:-1], dtype=bool) if where is None else np.array(where)
    mask.reshape(-1)[list(gone)] = False
    expected = search_exact(array, queries, k, metric=metric, where=mask)
    assert hits.ids.tolist() == expected.ids.tolist()
    assert hits.distances.tolist() == expected.distances.tolist()
    assert hits.stats.part_read is not None
    return hits


@pytest.mark.parametrize(("metric", "dtype"), [*((metric, "f4") for metric in METRICS), *SOME_DTYPES])
def test_equals_all_rows(root, metric, dtype):
    data = clustered(dtype)
    array = indexed(root, data, metric)
    random = np.random.default_rng(2)
    queries = data[random.integers(0, ROWS, 4)].astype("f8") * 1.02 + 0.01
    hits = both(array, queries, metric=metric)
    assert hits.stats.part_read < 0.3
    assert hits.stats.lists > 0
    assert hits.stats.vectors < ROWS / 10
    both(array, queries[0], 1, metric=metric)
    half = random.random(ROWS) < 0.5
    assert both(array, queries, 30, metric=metric, where=half).stats.part_read < 0.5
    both(array, queries, 10, metric=metric, where=random.random(ROWS) < 0.003)
    both(array, queries, ROWS + 5, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_differ_from_the_lists(root, metric):
    data = clustered()
    array = indexed(root, data, metric)
    queries = data[[5, 1100, 2399]] + np.float32(0.01)
    gone = both(array, queries, metric=metric).ids[:, :3].ravel().tolist()
    array.vec.delete(gone)
    both(array, queries, metric=metric, gone=gone)
    array[300:340] = np.tile(queries[1], (40, 1))
    array[1090:1110] = -data[1090:1110]
    zarrvec.append(array, np.repeat(queries, 5, axis=0))
    hits = both(array, queries, 12, metric=metric, gone=gone)
    assert hits.stats.part_read < 1
    array[10] = np.full(WIDTH, np.nan)
    both(array, queries, 12, metric=metric, gone=gone)
    array.vec.optimize()
    warm(array)
    both(array, queries, 12, metric=metric, gone=gone)
    array.resize((1200, WIDTH))
    both(array, queries, 12, metric=metric, gone=[row for row in gone if row < 1200])
    with zarrvec.transaction(array, message="not yet committed"):
        array[7] = queries[0]
        hits = both(array, queries, 3, metric=metric, gone=[row for row in gone if row < 1200])
        assert hits.ids[0, 0] == 7 or metric == "ip"


@pytest.mark.parametrize("metric", METRICS)
def test_zeros_duplicates_and_rows_that_are_not_finite(root, metric):
    data = clustered("f8")
    data[1000:1100] = data[1000]
    data[1500:1510] = 0
    data[[3, 1300, 2000]] = np.nan
    data[1400, 1] = np.inf
    array = indexed(root, data, metric)
    hits = both(array, [data[1000], data[1000] + 1e-9, -data[2250]], 15, metric=metric)
    assert hits.ids[0].tolist() == list(range(1000, 1015)) or metric == "ip"
    both(array, np.zeros((2, WIDTH)), 15, metric=metric)
    both(array, [np.zeros(WIDTH), data[1]], 15, metric=metric)
    both(array, -data.mean(axis=0, where=np.isfinite(data)), 200, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("length", [1e-200, 1e8, 1e25])
def test_rows_that_float32_cannot_hold(root, metric, length):
    data = clustered("f8")
    data[::7] *= length
    array = indexed(root, data, metric)
    both(array, data[[0, 1, 700]], metric=metric)
    both(array, data[[3, 1, 702]], metric=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_queries_beyond_float32(root, metric):
    data = clustered("f8", rows=1200)
    array = indexed(root, data, metric)
    for length in (1e-300, 1e-40, 1e40, 1e300):
        both(array, data[[3, 800]] * length, metric=metric)


def test_more_axes_and_vectors(root):
    data = clustered().reshape(24, 100, WIDTH)
    array = indexed(root, data, "cosine", chunks=1)
    queries = data[[7, 20], [50, 60]]
    hits = both(array, queries, metric="cosine", include=["vectors"])
    assert hits.vectors.tolist() == data[hits.indices].tolist()
    assert hits.indices[0][:, 0].tolist() == [7, 20]
    assert hits.stats.part_read < 0.3


def test_little_memory(root):
    data = clustered(rows=1200)
    array = indexed(root, data, "l2")
    for memory_bytes, some in ((1, 1), (100_000, 5), (4 << 20, 30)):
        hits = both(array, data[:: 1200 // some], metric="l2", memory_bytes=memory_bytes)
        assert hits.stats.lists > 0 or memory_bytes == 1


def test_all_rows_are_read_where_bounds_do_not_help(root):
    data = np.random.default_rng(0).normal(size=(4000, WIDTH)).astype("f4")
    array = indexed(root, data, "l2", chunks=1000)
    hits = both(array, data[:50] + 1, metric="l2")
    assert hits.stats.part_read == 1
    assert hits.stats.chunks_read == 4


def test_a_cold_index_is_left_alone_where_it_is_not_small_beside_the_array(root):
    from zarrvec.search.cache import LISTS, ROOTS

    data = clustered()
    array = indexed(root, data, "l2")
    LISTS.clear()
    ROOTS.clear()
    hits = both(array, data[:2], metric="l2")
    assert hits.stats.part_read == 1
    assert hits.stats.lists == 0
    assert TRIED_SHARE < 0.1


def test_all_rows_are_read_where_an_overwritten_row_would_not_show():
    data = clustered(rows=1200)
    array = indexed(zarr.create_group(MemoryStore()), data, "l2")
    array[900] = data[0]
    hits = both(array, data[0], 2, metric="l2")
    assert hits.ids.tolist() == [0, 900]
    assert hits.stats.part_read == 1


def test_another_metric_than_that_of_the_index(root):
    data = clustered(rows=1200)
    array = indexed(root, data, "l2")
    array.vec.delete([0])
    hits = array.vec.search(data[:2], exact=True, metric="ip")
    mask = np.arange(1200) > 0
    assert hits.ids.tolist() == search_exact(array, data[:2], 10, metric="ip", where=mask).ids.tolist()
