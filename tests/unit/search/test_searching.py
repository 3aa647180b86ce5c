"""Does a search through an index say clearly what it can't do, and is it right where there is little to find?"""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import zarrvec
from zarrvec.errors import OptionError, SearchError
from zarrvec.search import approximate, searching
from zarrvec.search.cache import LISTS, ROOTS

pytestmark = pytest.mark.usefixtures("quick_builds")

WIDTH = 8
METRICS = ("cosine", "l2", "ip")


def rows(count, seed=0, width=WIDTH):
    return np.random.default_rng(seed).standard_normal((count, width)).astype("f4")


def indexed(data, metric="l2", **options):
    array = zarr.create_array(MemoryStore(), data=data, chunks=(50, *data.shape[1:]))
    array.vec.build_index(metric=metric, **options)
    return array


@pytest.fixture(scope="module")
def array():
    group = zarr.create_group(MemoryStore())
    made = group.create_array("emb", data=rows(400), chunks=(50, WIDTH))
    group.create_array("year", data=np.arange(400) + 1900)
    group.create_array("short", data=np.arange(9))
    made.vec.build_index(metric="l2")
    return made


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recall": 0}, OptionError, "recall=0: expected a share"),
        ({"recall": 1.01}, OptionError, r"recall=1\.01"),
        ({"recall": float("nan")}, OptionError, "recall=nan"),
        ({"recall": True}, OptionError, "recall=True"),
        ({"exact": "no"}, OptionError, "exact='no'"),
        ({"k": True}, SearchError, "k=True"),
        ({"nprobe": 0}, OptionError, "nprobe=0"),
        ({"nprobe": 1.5}, OptionError, r"nprobe=1\.5"),
        ({"bits": 3}, OptionError, "bits=3"),
        ({"bits": 4.0}, OptionError, "bits=4.0"),
        ({"rerank": "yes"}, OptionError, "rerank='yes'"),
        ({"rerank": 0}, OptionError, "rerank=0: expected True or False"),
        ({"rerank": 0.0}, OptionError, r"rerank=0\.0"),
        ({"rerank": np.array([True, False])}, OptionError, "rerank=array"),
        ({"exact": 0}, OptionError, "exact=0"),
        ({"exact": np.array(True)}, OptionError, "exact=array"),
        ({"memory_bytes": 0}, OptionError, "memory_bytes=0"),
        ({"memory_bytes": None}, OptionError, "memory_bytes=None"),
        ({"k": 0}, SearchError, "k=0"),
        ({"k": 2.5}, SearchError, r"k=2\.5"),
        ({"metric": "hamming"}, OptionError, "metric='hamming' is unknown"),
        ({"metric": "cosine"}, SearchError, r"metric='cosine': the index.*is for 'l2'.*exact=True"),
        ({"where": np.ones(5, bool)}, SearchError, r"mask of shape \(5,\)"),
        ({"where": [400]}, SearchError, "ids hold 400"),
        ({"where": [-1]}, SearchError, "ids hold -1"),
        ({"where": lambda _: None}, SearchError, "returned None.*`return` missing"),
        ({"where": lambda beside: beside[3]}, SearchError, r"beside\[3\]: expected the name"),
        ({"where": np.ma.ones(400, bool)}, SearchError, r"masked array of shape \(400,\).*filled"),
        ({"where": np.ma.array([1, 2], mask=[True, False])}, SearchError, "masked array"),
        ({"where": lambda beside: np.ma.array(beside["year"] > 1)}, SearchError, "masked array"),
        ({"where": lambda beside: beside["none"] > 1}, OptionError, "no array 'none'"),
        ({"where": lambda beside: beside["short"] > 1}, OptionError, r"'short'.*\(9,\).*\(400,\)"),
        ({"include": ["none"]}, OptionError, "no array 'none'"),
        ({"include": [3]}, OptionError, "'vectors', which are the rows"),
    ],
)
def test_wrong_calls(array, options, error, message):
    with pytest.raises(error, match=message):
        array.vec.search(np.ones(WIDTH), **{"k": 3, **options})


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.full(WIDTH, np.nan), "1 of 1 queries hold NaN"),
        (np.stack([np.ones(WIDTH), np.full(WIDTH, np.inf)]), "first is query 1"),
        (np.ones(WIDTH + 1), "width 9"),
        (np.ones((2, 2, WIDTH)), "shape"),
        (["text"] * WIDTH, "not real numbers"),
        (np.ma.ones(WIDTH), r"queries are a masked array of shape \(8,\)"),
    ],
)
def test_wrong_queries(array, queries, message):
    with pytest.raises(SearchError, match=message):
        array.vec.search(queries)


@pytest.mark.parametrize("rerank", [True, False])
def test_flags_may_be_those_of_numpy(array, rerank):
    flag, asked = np.bool_(rerank), {"k": 3, "recall": 0.9999}
    assert array.vec.search(np.ones(WIDTH), **asked).stats.reranked
    assert array.vec.search(np.ones(WIDTH), **asked, rerank=flag).stats.reranked is rerank
    assert array.vec.explain(**asked, rerank=flag).rerank is rerank
    assert array.vec.search(np.ones(WIDTH), 3, exact=np.bool_(True)).stats.nprobe is None


@pytest.mark.parametrize("how", ["written", "appended"])
def test_a_row_infinitely_far_by_float32_is_a_hit(tmp_path, how):
    root = zarr.create_group(f"zarrvec://{tmp_path}/s.zarr")
    array = root.create_array("emb", data=rows(40), chunks=(5, WIDTH))
    array.vec.build_index(metric="l2")
    far = np.full((1, WIDTH), 1.7e38, "f4")
    if how == "written":
        array[20] = far[0]
    else:
        array.vec.append(far)
    for k in (41, 45):
        hits = array.vec.search(np.ones(WIDTH), k)
        assert sorted(hits.ids) == list(range(array.shape[0]))
        assert hits.ids[-1] == (20 if how == "written" else 40)
        assert np.isinf(hits.distances[-1])


def test_rows_in_no_list_are_ordered_by_float64(tmp_path):
    root = zarr.create_group(f"zarrvec://{tmp_path}/s.zarr")
    data = rows(40).astype("f8")
    data[5], data[9] = 1e200, 1e300
    array = root.create_array("emb", data=data, chunks=(5, WIDTH))
    array.vec.build_index(metric="ip")
    assert array.vec.search(np.ones(WIDTH), 2, exact=True).ids.tolist() == [9, 5]
    assert array.vec.search(np.ones(WIDTH), 2).ids.tolist() == [9, 5]


@pytest.mark.parametrize("k", [401, 10**12])
@pytest.mark.parametrize("options", [{}, {"rerank": True}, {"bits": 4}, {"nprobe": 1}, {"exact": True}])
def test_no_more_hits_than_rows(array, k, options):
    assert sorted(array.vec.search(np.ones(WIDTH), k, **options).ids) == list(range(400))


def test_no_queries_and_nothing_selected(array):
    assert array.vec.search(np.empty((0, WIDTH)), 3).ids.shape == (0, 3)
    nothings: list[Any] = [[], slice(0, 0), np.zeros(400, bool), lambda beside: beside["year"] < 0]
    for nothing in nothings:
        assert array.vec.search(np.ones((2, WIDTH)), 3, where=nothing).ids.shape == (2, 0)


@pytest.mark.parametrize(
    "where",
    [[7, 300, 7], slice(100, None, 50), lambda beside: beside["year"] % 100 == 7, np.arange(400) > 395],
)
def test_only_what_is_selected_is_found(array, where):
    chosen = where({"year": np.arange(400) + 1900}) if callable(where) else where
    selected = np.zeros(400, bool)
    selected[chosen] = True
    hits = array.vec.search(rows(3, 1), 5, where=where, rerank=True)
    expected = array.vec.search(rows(3, 1), 5, where=where, exact=True)
    assert hits.ids.tolist() == expected.ids.tolist()
    assert selected[hits.ids].all()


def test_columns_and_vectors_come_along(array):
    hits = array.vec.search(rows(2, 1), 3, include=["year", "vectors"])
    assert (hits.columns["year"] == hits.ids + 1900).all()
    assert hits.vectors is not None
    assert (hits.vectors == array[...][hits.ids]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("count", "width"), [(1, 4), (2, 4), (3, 1), (60, 1), (30, 2000)])
def test_few_rows_and_few_or_many_dimensions(metric, count, width):
    array = indexed(rows(count, 1, width), metric)
    queries = rows(2, 2, width)
    for options in ({}, {"bits": 4, "rerank": True}):
        hits = array.vec.search(queries, 7, **options)
        assert hits.ids.shape == (2, min(7, count))
    assert array.vec.search(queries, 1, rerank=True).ids.tolist() == (
        array.vec.search(queries, 1, exact=True).ids.tolist()
    )


@pytest.mark.parametrize("metric", METRICS)
def test_more_lists_than_rows(metric):
    array = indexed(rows(20), metric, nlist=1000)
    hits = array.vec.search(array[...], 1, rerank=True, nprobe=1000)
    assert hits.ids.tolist() == array.vec.search(array[...], 1, exact=True).ids.tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [0, 1])
def test_rows_that_are_all_equal(metric, value):
    array = indexed(np.full((700, WIDTH), value, "f4"), metric)
    hits = array.vec.search(np.ones((2, WIDTH)), 20)
    assert hits.ids.tolist() == [list(range(20))] * 2


def test_zero_rows_and_queries_under_cosine():
    data = rows(300)
    data[::3] = 0
    array = indexed(data, "cosine")
    assert array.vec.search(np.zeros(WIDTH), 4).distances.tolist() == [1, 1, 1, 1]
    hits = array.vec.search(data[1], 300, nprobe=99)
    assert abs(hits.distances[np.isin(hits.ids, np.arange(0, 300, 3))] - 1).max() < 0.01


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_are_never_found(metric):
    data = rows(400)
    data[::3] = np.nan
    data[1::3, 2] = np.inf
    array = indexed(data, metric)
    assert sorted(array.vec.search(np.ones(WIDTH), 400).ids) == list(range(2, 400, 3))


def test_deleted_rows_are_not_found_exactly_either(array):
    copy = indexed(array[...])
    copy.vec.delete([5, 7])
    for options in ({}, {"exact": True}, {"exact": True, "metric": "ip"}, {"where": [5, 6, 7]}):
        ids = copy.vec.search(array[5], 400, **options).ids.tolist()
        assert not {5, 7} & set(ids)
        assert 6 in ids


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_rows_that_codes_do_not_tell_apart(metric):
    random = np.random.default_rng(0)
    data = np.repeat(rows(40, width=32), 50, axis=0) + 1e-3 * random.normal(size=(2000, 32)).astype("f4")
    array = indexed(data, metric)
    queries = data[::40]
    hits = array.vec.search(queries, 10)
    assert hits.ids.tolist() == array.vec.search(queries, 10, exact=True).ids.tolist()
    assert "codes don't tell the nearest rows apart" in str(array.vec.explain(queries, 10))
    assert array.vec.search(queries, 10, nprobe=2).stats.nprobe == 2


class TestSearchesLikeTheOneBefore:
    @pytest.fixture
    def prepared(self, monkeypatch):
        """Which searches were prepared."""
        calls = []

        prepare = searching.prepare

        def noted(snapshot, index, asked):
            calls.append(asked)
            return prepare(snapshot, index, asked)

        monkeypatch.setattr(searching, "prepare", noted)
        return calls

    @pytest.fixture
    def emb(self, tmp_path, compiled):
        root = zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="a")
        made = root.create_array("emb", data=rows(400), chunks=(50, WIDTH))
        made.vec.build_index(metric="l2")
        return made

    def test_are_prepared_once(self, emb, prepared):
        first = emb.vec.search(emb[7], 3)
        second = emb.vec.search(emb[7], 3)
        assert second.ids.tolist() == first.ids.tolist()
        assert second.distances.tolist() == first.distances.tolist()
        assert (first.stats.lists, first.stats.entries) == (second.stats.lists, second.stats.entries)
        assert emb.vec.search(emb[:9], 3).ids[7].tolist() == first.ids.tolist()
        assert len(prepared) == 1

    def test_see_what_was_written_since(self, emb, prepared):
        emb.vec.search(emb[7], 1)
        emb[399] = emb[7] + 9
        assert emb.vec.search(emb[399], 1).ids.tolist() == [399]
        zarrvec.append(emb, emb[:1] - 9)
        assert emb.vec.search(emb[400], 1).ids.tolist() == [400]
        emb.vec.delete([400])
        assert emb.vec.search(emb[400], 1).ids.tolist() != [400]
        with zarrvec.transaction(emb):
            emb[3] = 99
            assert emb.vec.search(np.full(WIDTH, 99), 1).ids.tolist() == [3]
        assert emb.vec.search(np.full(WIDTH, 99), 1).ids.tolist() == [3]
        assert len(prepared) == 6

    def test_are_prepared_anew_for_other_options(self, emb, prepared):
        emb.vec.search(emb[7], 3)
        assert emb.vec.search(emb[7], 4).ids.shape == (4,)
        assert emb.vec.search(emb[7], 4, where=[1, 2, 5]).ids.tolist() != []
        assert emb.vec.search(emb[7], 4, recall=0.5).stats.nprobe is not None
        assert emb.vec.search(emb[7], 4, include="vectors").vectors.shape == (4, WIDTH)
        assert emb.vec.search(emb[7], 4, exact=True).stats.nprobe is None
        asked = [(one.k, one.recall) for one in prepared if one.where is None]
        assert asked == [(3, 0.95), (4, 0.95), (4, 0.5), (4, 0.95)]

    @pytest.mark.parametrize("queries", [np.ones(WIDTH + 1), np.full(WIDTH, np.nan), np.ones((1, 1, WIDTH))])
    def test_refuse_what_the_first_refuses(self, emb, queries):
        with pytest.raises(SearchError) as first:
            emb.vec.search(queries)
        emb.vec.search(emb[7])
        with pytest.raises(SearchError) as second:
            emb.vec.search(queries)
        assert str(first.value) == str(second.value)

    def test_take_no_hits_and_queries_beyond_float32_as_the_first_does(self, emb, prepared):
        emb.vec.search(emb[7], 3)
        assert emb.vec.search(np.empty((0, WIDTH)), 3).ids.shape == (0, 3)
        far = np.full(WIDTH, 1e30)
        assert emb.vec.search(far, 3).stats.nprobe is None
        assert len(prepared) == 1

    def test_find_lists_anew_that_memory_has_dropped(self, emb):
        expected = emb.vec.search(emb[7], 3)
        for drop in (LISTS.clear, lambda: None):
            drop()
            again = emb.vec.search(emb[7], 3)
            assert again.ids.tolist() == expected.ids.tolist()
            assert (again.stats.lists, again.stats.entries) == (expected.stats.lists, expected.stats.entries)

    def test_keep_no_lists_that_memory_has_dropped(self, emb, monkeypatch):
        found = [emb.vec.search(query, 3).ids.tolist() for query in emb[:50]]
        held = [weakref.ref(kept.data) for kept, _ in LISTS._held.values()]
        monkeypatch.setattr(LISTS, "limit_bytes", 0)
        gc.collect()
        assert held
        assert not any(data() is not None for data in held)
        assert [emb.vec.search(query, 3).ids.tolist() for query in emb[:50]] == found
        assert not LISTS._held

    def test_threads_share_them_while_memory_drops_lists(self, emb):
        queries = np.asarray(emb[:40])
        expected = emb.vec.search(queries, 5).ids.tolist()
        with ThreadPoolExecutor(4) as pool:
            searches = [pool.submit(emb.vec.search, query, 5) for _ in range(5) for query in queries]
            while not all(search.done() for search in searches):
                LISTS.clear()
        assert [search.result().ids.tolist() for search in searches] == 5 * expected

    def test_threads_share_them(self, emb):
        queries = np.asarray(emb[:40])
        expected = emb.vec.search(queries, 5).ids.tolist()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda query: emb.vec.search(query, 5).ids.tolist(), queries))
        assert found == expected


@pytest.mark.parametrize("bits", [4, 8])
def test_recall_between_the_hits_that_were_measured(bits):
    """Of rows in clusters codes lose much of 20 hits and nothing of 100, as many as a cluster has."""
    rng = np.random.default_rng(3)
    centres = 30 * rng.normal(size=(40, 24))
    rows = (centres[rng.integers(40, size=4000)] + 8 * rng.normal(size=(4000, 24))).astype("f4")
    array = zarr.create_array({}, name="emb", data=rows, chunks=(700, 24))
    array.vec.build_index(metric="cosine", bits=bits)
    queries = rows[rng.integers(4000, size=100)] + rng.normal(size=(100, 24))
    similarity = queries @ (rows / np.linalg.norm(rows, axis=1)[:, None]).T
    half = rng.random(4000) < 0.5
    for k, where in ((5, None), (20, None), (50, None), (10, half)):
        near = similarity if where is None else np.where(where, similarity, -np.inf)
        truth = np.argsort(-near, axis=1)[:, :k]
        found = array.vec.search(queries, k, where=where).ids
        shared = [np.isin(ids, true).mean() for ids, true in zip(found, truth, strict=True)]
        assert np.mean(shared) >= 0.94


@pytest.mark.parametrize("change", ["drop", "build"])
def test_an_index_that_is_dropped_or_replaced_while_it_is_read(change, monkeypatch):
    array = indexed(rows(200))
    data, opening = array[...], searching.open_index
    changes = [array.vec.drop_index if change == "drop" else array.vec.build_index]

    def late(snapshot, head):
        if changes:
            changes.pop()()
        return opening(snapshot, head)

    monkeypatch.setattr(searching, "open_index", late)
    ROOTS.clear()
    LISTS.clear()
    hits = array.vec.search(data[:5], 1, metric="l2" if change == "drop" else None)
    assert hits.ids[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (hits.stats.nprobe is None) == (change == "drop")


def test_rows_so_far_from_zero_that_products_overflow():
    data = np.float32(1e16) + np.float32(1e12) * rows(400)
    array = indexed(data)
    for query in (np.ones(WIDTH), data[7].astype("f8")):
        hits = array.vec.search(query, k=3)
        assert hits.ids.tolist() == array.vec.search(query, k=3, exact=True).ids.tolist()
        apart = ((data.astype("f8") - query) ** 2).sum(axis=1)
        assert apart[hits.ids].tolist() == np.sort(apart)[:3].tolist()
        assert array.vec.explain(query, k=3).way == "all rows"
    assert "far from 0" in array.vec.explain(np.ones(WIDTH)).because


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.usefixtures("compiled")
def test_a_batch_goes_by_in_parts_that_fit_in_memory(monkeypatch, selected):
    data = rows(3000)
    array = indexed(data, "l2")
    asked = {"where": data[:, 0] > 1, "nprobe": 3} if selected else {}
    whole = array.vec.search(data[:100], 10, **asked)
    parts = []
    split = approximate._parts

    def noted(count, most):
        found = list(split(count, most))
        parts.append(len(found))
        return found

    monkeypatch.setattr(approximate, "_parts", noted)
    hits = array.vec.search(data[:100], 10, memory_bytes=2000, **asked)
    assert parts[0] > 5
    assert hits.ids.tolist() == whole.ids.tolist()
    assert (hits.stats.lists, hits.stats.entries, hits.stats.unlike) == (
        whole.stats.lists,
        whole.stats.entries,
        whole.stats.unlike,
    )


@pytest.mark.parametrize("chosen", [1, 3, 10])
def test_selected_rows_that_lie_elsewhere_than_the_queries(chosen):
    random = np.random.default_rng(10)
    clusters = random.integers(30, size=12_000)
    data = (2 * random.normal(size=(30, 24))[clusters] + random.normal(size=(12_000, 24))).astype("f4")
    array = indexed(data[500:], "l2")
    selected = clusters[500:] < chosen
    hits = array.vec.search(data[:500], 10, where=selected)
    assert hits.stats.nprobe is not None
    true = array.vec.search(data[:500], 10, where=selected, exact=True)
    found = [
        len(set(one) & set(other)) for one, other in zip(hits.ids.tolist(), true.ids.tolist(), strict=True)
    ]
    assert np.mean(found) / 10 >= 0.93
