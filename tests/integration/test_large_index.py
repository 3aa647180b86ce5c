"""Does an index whose table of lists is read by groups find what one that is read whole finds, and in how many rounds?"""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

import zarrvec
from zarrvec.errors import CorruptError
from zarrvec.search import extending, groups, optimize
from zarrvec.search.cache import LISTS, ROOTS
from zarrvec.search.head import ATTRIBUTE
from zarrvec.search.roots import GroupedRoot

pytest.importorskip("faiss")

ROWS, WIDTH, LISTS_MADE = 20_000, 24, 400


def vectors(count, seed):
    centres = np.random.default_rng(0).normal(size=(400, WIDTH))
    random = np.random.default_rng(seed)
    return (centres[random.integers(400, size=count)] + 0.4 * random.normal(size=(count, WIDTH))).astype("f4")


QUERIES = vectors(200, 2)


@pytest.fixture(autouse=True)
def _nothing_held():
    forget()


def forget():
    ROOTS.clear()
    LISTS.clear()


def indexed(store, metric, rows=ROWS, nlist=LISTS_MADE):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "ROOT_BYTES", 4 << 10)
        array = zarr.create_array(store, name="emb", data=vectors(rows, 1), chunks=(1000, WIDTH))
        array.vec.build_index(metric=metric, nlist=nlist)
    assert 1 < segment_of(array)["groups"]["count"] < nlist
    return array


def segment_of(array):
    return zarr.open_group(array.store, path="emb.vec", mode="r").attrs[ATTRIBUTE]["segments"][0]


@pytest.fixture(scope="module", params=["cosine", "l2", "ip"])
def known(request, tmp_path_factory):
    """An index, and the answers."""
    array = indexed(zarrvec.open_store(f"zarrvec://{tmp_path_factory.mktemp('large')}"), request.param)
    return SimpleNamespace(array=array, truth=array.vec.search(QUERIES, 10, exact=True))


@pytest.fixture
def looks_at_all(monkeypatch):
    """Let searches look at the centroids of all lists, as if the table of lists were read whole."""

    def switch():
        monkeypatch.setattr(
            GroupedRoot,
            "probe",
            lambda root, snapshot, queries, nprobe: root.load(snapshot).probe(snapshot, queries, nprobe),
        )

    return switch


def recall(array, truth, **options):
    hits = array.vec.search(QUERIES, 10, **options)
    return (hits.ids[:, :, None] == truth.ids[:, None, :]).any(axis=2).mean()


@pytest.mark.once
@pytest.mark.usefixtures("numpy_alone")  # compiled code rounds differently
def test_all_lists_are_found(known, looks_at_all):
    hits = known.array.vec.search(QUERIES, 10, nprobe=LISTS_MADE)
    looks_at_all()
    forget()
    expected = known.array.vec.search(QUERIES, 10, nprobe=LISTS_MADE)
    assert np.sort(hits.ids).tolist() == np.sort(expected.ids).tolist()  # equally near ones may change places
    assert hits.stats.entries == expected.stats.entries
    np.testing.assert_allclose(hits.distances, expected.distances, rtol=2e-5, atol=2e-5)


@pytest.mark.once
def test_recall_is_that_of_all_lists(known, looks_at_all):
    asked = (0.9, 0.95, 0.99)
    got = [recall(known.array, known.truth, recall=share) for share in asked]
    assert (np.array(got) > np.array(asked) - 0.01).all()
    where = np.arange(ROWS) % 97 == 0
    selected = known.array.vec.search(QUERIES, 10, where=where, exact=True)
    met = recall(known.array, selected, where=where)
    looks_at_all()
    of_all = [recall(known.array, known.truth, recall=share) for share in asked]
    assert (np.array(got) >= np.array(of_all) - 0.003).all()
    assert met >= recall(known.array, selected, where=where) - 0.01


@pytest.mark.once
def test_more_lists_are_more_recall(known):
    recalls = [recall(known.array, known.truth, nprobe=nprobe, rerank=True) for nprobe in (1, 8, 64)]
    assert recalls == sorted(recalls)


@pytest.mark.once
def test_single_queries_find_what_many_find(known):
    together = known.array.vec.search(QUERIES[:20], 10, nprobe=4)
    forget()
    for query, ids in zip(QUERIES[:20], together.ids, strict=True):
        assert known.array.vec.search(query, 10, nprobe=4).ids.tolist() == ids.tolist()


@pytest.mark.once
def test_rounds_and_requests(known):
    array = known.array
    array.vec.search(QUERIES[0], 10)
    forget()
    cold = array.vec.search(QUERIES[0], 10).stats
    assert cold.rounds == 3
    assert cold.requests <= 40
    LISTS.clear()
    warm = array.vec.search(QUERIES[0], 10).stats
    assert warm.rounds == 1
    assert warm.requests < cold.requests
    again = array.vec.search(QUERIES[0], 10).stats
    assert again.rounds == again.requests == 0
    forget()
    foreseen = array.vec.explain(QUERIES[0], 10)
    assert (foreseen.rounds, foreseen.requests) == (cold.rounds, cold.requests)


@pytest.mark.once
def test_threads_fill_in_the_same(known):
    expected = known.array.vec.search(QUERIES, 10, nprobe=8).ids.tolist()
    for _ in range(3):
        forget()
        with ThreadPoolExecutor(max_workers=8) as pool:
            hits = list(pool.map(lambda query: known.array.vec.search(query, 10, nprobe=8), QUERIES[:40]))
        assert [found.ids.tolist() for found in hits] == expected[:40]


@pytest.mark.once
def test_little_memory_is_enough(known):
    expected = [known.array.vec.search(query, 10).ids.tolist() for query in QUERIES[:30]]
    ROOTS.limit_bytes, before = 30 << 10, ROOTS.limit_bytes
    try:
        for query, ids in zip(QUERIES[:30], expected, strict=True):
            hits = known.array.vec.search(query, 10)
            assert hits.ids.tolist() == ids
            assert hits.stats.rounds <= 3
            assert ROOTS.bytes_held <= 30 << 10
    finally:
        ROOTS.limit_bytes = before


@pytest.mark.once
def test_exact_search(known):
    hits = known.array.vec.search(QUERIES[:5], 10, exact=True)
    assert hits.ids.tolist() == known.truth.ids[:5].tolist()


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_other_stores(tmp_path, kind):
    store = LocalStore(tmp_path) if kind == "local" else MemoryStore()
    array = indexed(store, "l2", rows=6000, nlist=150)
    assert segment_of(array)["groups"]["shard_rows"] is not None
    truth = array.vec.search(QUERIES, 10, exact=True)
    assert recall(array, truth, recall=0.95) > 0.94
    forget()
    cold, again = (array.vec.search(QUERIES[0], 10).stats for _ in range(2))
    assert cold.rounds == 4  # such a store has no catalog that brings the head
    assert again.rounds == 1


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_changes(tmp_path, metric, monkeypatch):
    array = indexed(zarrvec.open_store(f"zarrvec://{tmp_path}"), metric, rows=8000, nlist=160)
    forget()
    monkeypatch.setattr(extending, "PENDING_BYTES", 1)
    new = vectors(500, 3)
    array.vec.append(new)
    found = array.vec.search(new[:50], 1)
    assert (found.ids[:, 0] == 8000 + np.arange(50)).mean() > 0.95
    gone = found.ids[:25, 0]
    array.vec.delete(gone)
    forget()
    assert not np.isin(array.vec.search(new[:50], 5).ids, gone).any()
    monkeypatch.setattr(optimize, "OVERGROWN", 1.2)
    monkeypatch.setattr(optimize, "LEAST_MEAN", 1.0)
    before = segment_of(array)
    forget()
    report = array.vec.optimize()
    assert report["action"] == "merged"
    assert report["lists_split"] > 0
    after = segment_of(array)
    assert after["lists"] > before["lists"]
    assert after["groups"]["count"] == before["groups"]["count"]
    for is_held in (True, False):
        if not is_held:
            forget()
        truth = array.vec.search(QUERIES, 10, exact=True)
        assert recall(array, truth, recall=0.95) > 0.93
        assert recall(array, truth, nprobe=after["lists"], rerank=True) > 0.999
    assert array.vec.info()["lists"] == after["lists"]


@pytest.fixture(scope="module")
def damageable():
    held: dict[str, Any] = {}
    return indexed(MemoryStore(held), "l2", rows=3000, nlist=120), held


@pytest.mark.once
@pytest.mark.parametrize("part", ["groups", "lists"])
@pytest.mark.parametrize("at", [0, 13, 29, -60])
@pytest.mark.parametrize("options", [{"nprobe": 120}, {}], ids=["all", "some"])
def test_damage_is_found(damageable, part, at, options):
    array, held = damageable
    (key,) = [key for key in held if f"/{part}/c/" in key]
    value = held[key]
    data = bytearray(value.to_bytes())
    data[at] ^= 0x10
    held[key] = type(value).from_bytes(bytes(data))
    forget()
    try:
        with pytest.raises(CorruptError, match=rf"emb\.vec/[0-9a-f]+/{part}.*build_index"):
            array.vec.search(QUERIES, 10, **options)
    finally:
        held[key] = value
    forget()
    assert array.vec.search(QUERIES[:1], 10, **options).ids.shape == (1, 10)


@pytest.mark.parametrize(
    "change",
    [{"count": 1}, {"crc32c": 1}, {"seen": 0.5}, {"seen": float("nan")}, {"count": 121}, {"shard_rows": 7}],
)
def test_a_head_that_tells_something_else(damageable, change):
    array, _ = damageable
    group = zarr.open_group(array.store, path="emb.vec", mode="a")
    head: Any = group.attrs[ATTRIBUTE]
    first = head["segments"][0]
    first = first | {"groups": first["groups"] | change}
    forget()
    group.attrs[ATTRIBUTE] = head | {"segments": [first, *head["segments"][1:]]}
    try:
        with pytest.raises(CorruptError, match=r"emb\.vec.*build"):
            array.vec.search(QUERIES[:1], 10)
    finally:
        group.attrs[ATTRIBUTE] = head
