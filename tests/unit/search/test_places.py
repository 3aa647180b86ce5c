"""Is an index found beside its array, and read in one wave, of one version, on any store?"""

import threading

import numpy as np
import pytest
import zarr
from obstore.store import LocalStore as ObstoreLocal
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore

import zarrvec
from zarrvec.engine.traffic import Traffic
from zarrvec.errors import ConflictError, CorruptError, SearchError
from zarrvec.layout import fold
from zarrvec.search.arrays import create_entries
from zarrvec.search.entries import EntriesReader
from zarrvec.search.places import Snapshot, Want
from zarrvec.search.units import STAGED, changed_units

PLAIN = {
    "memory": lambda _: MemoryStore(),
    "local": LocalStore,
    "fsspec": lambda path: FsspecStore.from_url(f"file://{path}", storage_options={"auto_mkdir": True}),
    "obstore": lambda path: ObjectStore(ObstoreLocal(path, mkdir=True)),
}
OURS = {
    "native": lambda path: zarrvec.open_store(f"zarrvec://{path}"),
    "url": lambda path: zarr.open_group(f"zarrvec://{path}", mode="a").store,
}


@pytest.fixture(params=[*PLAIN, *OURS])
def store(request, tmp_path):
    return {**PLAIN, **OURS}[request.param](tmp_path / "data.zarr")


@pytest.fixture(params=OURS)
def ours(request, tmp_path):
    return OURS[request.param](tmp_path / "data.zarr")


def embeddings(store, name="emb", rows=20, **options):
    return zarr.create_array(
        store, name=name, shape=(rows, 4), chunks=(2, 4), dtype="f4", compressors=None, **options
    )


def write_index(snapshot, **arrays):
    group = zarr.open_group(snapshot.target, mode="a", attributes={"zarrvec_index": {"revision": "r1"}})
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=values.shape, compressors=None, overwrite=True)
    return group


BLOB = np.random.default_rng(0).integers(0, 256, 300_000, dtype="u1")


def test_an_index_is_found_and_read(store):
    array = embeddings(store)
    snapshot = Snapshot.of(array)
    assert snapshot.index_path.rpartition("/")[2] == "emb.vec"
    assert snapshot.head() is None
    write_index(snapshot, blob=BLOB)
    snapshot = Snapshot.of(array)
    assert snapshot.head() == {"revision": "r1"}
    before = snapshot.stats.rounds
    wants = [
        Want("blob/c/0", 200_000, 200_010),
        Want("blob/c/0"),
        Want("blob/c/0", 5, 5),
        Want("blob/c/0", -7),
        Want("blob/c/0", 299_000),
        Want("blob/c/0", 3, 9),
    ]
    parts = snapshot.read(wants)
    for want, part in zip(wants, parts, strict=True):
        assert bytes(part) == BLOB.tobytes()[want.start : want.stop]
    assert snapshot.stats.rounds == before + 1
    assert snapshot.read([]) == []
    assert snapshot.read_with_generations(wants[:1])[0] == [BLOB[200_000:200_010].tobytes()]
    assert zarr.open_group(snapshot.target, mode="r")["blob"].shape == BLOB.shape


def test_an_index_may_be_large(store):
    array = embeddings(store)
    large = np.random.default_rng(0).integers(0, 256, 20_000_000, dtype="u1")
    write_index(Snapshot.of(array), large=large)
    snapshot = Snapshot.of(array)
    (part,) = snapshot.read([Want("large/c/0", 1, 19_999_999)])
    assert bytes(part) == large[1:-1].tobytes()
    assert snapshot.stats.rounds == 1
    assert snapshot.stats.requests in (2, 3)


@pytest.mark.parametrize(
    "want",
    [Want("blob/c/0", 299_990, 300_001), Want("blob/c/0", 400_000, 400_010), Want("blob/c/0", -300_001)],
)
def test_a_short_value_is_corrupt(store, want):
    array = embeddings(store)
    write_index(Snapshot.of(array), blob=BLOB)
    with pytest.raises(CorruptError, match=r"emb\.vec/blob/c/0: \d+ bytes at .*expected .*build_index"):
        Snapshot.of(array).read([Want("blob/c/0", 0, 10), want])


@pytest.mark.parametrize("want", [Want("gone/c/0"), Want("gone/c/0", 1, 2), Want("gone/c/0", 0, 20_000_000)])
def test_a_missing_value_is_corrupt(store, want):
    array = embeddings(store)
    write_index(Snapshot.of(array), blob=BLOB)
    with pytest.raises(CorruptError, match=r"emb\.vec/gone/c/0: missing.*build_index"):
        Snapshot.of(array).read([want])


@pytest.mark.parametrize("document", [b"", b"[]", b'{"attributes": 3}', b"\xff"])
def test_damaged_metadata_of_the_group(tmp_path, document):
    array = embeddings(LocalStore(tmp_path))
    write_index(Snapshot.of(array))
    (tmp_path / "emb.vec" / "zarr.json").write_bytes(document)
    with pytest.raises(CorruptError, match=r"emb\.vec/zarr\.json"):
        Snapshot.of(array).head()


def test_a_group_without_an_index(store):
    array = embeddings(store)
    zarr.create_group(store, path="emb.vec")
    assert Snapshot.of(array).head() is None


def test_an_array_at_the_root(store):
    array = zarr.create_array(store, shape=(4, 2), chunks=(2, 2), dtype="f4", overwrite=True)
    snapshot = Snapshot.of(array)
    assert snapshot.index_path == ".vec"
    write_index(snapshot, blob=BLOB)
    snapshot = Snapshot.of(array)
    assert snapshot.head() == {"revision": "r1"}
    assert bytes(snapshot.read([Want("blob/c/0")])[0]) == BLOB.tobytes()
    if snapshot.is_versioned:
        assert snapshot.generations().tolist() == [0, 0]


def test_an_array_that_is_the_root_of_its_own_store(tmp_path):
    url = f"zarrvec://{tmp_path}/data.zarr"
    array = embeddings(url, name="deep/emb")
    write_index(Snapshot.of(array), blob=BLOB)
    for other in (
        zarr.open_array(f"{url}/deep/emb", mode="r"),
        zarr.open_array(zarrvec.open_store(f"{url}/deep/emb"), mode="r"),
        zarr.open_array(url, path="deep/emb", mode="r"),
    ):
        snapshot = Snapshot.of(other)
        assert snapshot.index_path == "deep/emb.vec"
        assert snapshot.head() == {"revision": "r1"}
        assert bytes(snapshot.read([Want("blob/c/0", 0, 4)])[0]) == BLOB[:4].tobytes()


class CountingStore(WrapperStore):
    def __init__(self, store):
        super().__init__(store)
        self.ranges = []
        self.at_once = self.most_at_once = 0

    async def get(self, key, prototype, byte_range=None):
        self.ranges.append((key, byte_range))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await super().get(key, prototype, byte_range)
        finally:
            self.at_once -= 1


def test_requests_on_a_plain_store(tmp_path):
    store = CountingStore(LocalStore(tmp_path))
    array = embeddings(store)
    values = np.random.default_rng(0).integers(0, 256, 12_000_000, dtype="u1")
    write_index(Snapshot.of(array), blob=values)
    store.ranges.clear()
    snapshot = Snapshot.of(array)
    assert store.ranges == []
    snapshot.head()
    assert len(store.ranges) == 1
    far = [Want("blob/c/0", at, at + 100) for at in range(0, 12_000_000, 150_000)]
    parts = snapshot.read(far)
    assert all(
        bytes(part) == values[want.start : want.stop].tobytes() for want, part in zip(far, parts, strict=True)
    )
    assert len(store.ranges) == 1 + 80
    assert 1 < store.most_at_once <= 64
    assert snapshot.stats == Traffic(requests=81, bytes=8_000 + snapshot.stats.bytes % 1000, rounds=2)
    store.ranges.clear()
    near = [Want("blob/c/0", at, at + 100) for at in range(0, 1_150_000, 100 + (128 << 10))]
    snapshot.read(near)
    assert len(store.ranges) == 1
    store.ranges.clear()
    snapshot.read(
        [want._replace(start=want.start - 1, stop=want.stop - 1) for want in near[1::2]] + near[::2]
    )
    assert len(store.ranges) == len(near) // 2 + 1


def test_requests_on_ours(ours):
    array = embeddings(ours)
    values = np.random.default_rng(0).integers(0, 256, 12_000_000, dtype="u1")
    write_index(Snapshot.of(array), blob=values)
    snapshot = Snapshot.of(array)
    assert snapshot.head() == {"revision": "r1"}
    assert snapshot.stats == Traffic()
    snapshot.read([Want("blob/c/0", at, at + 100) for at in range(0, 12_000_000, 150_000)])
    assert snapshot.stats == Traffic(requests=80, bytes=8_000, rounds=1)
    snapshot.read([Want("blob/c/0", at, at + 100) for at in range(0, 1_000_000, 100 + (128 << 10))])
    assert (snapshot.stats.requests, snapshot.stats.rounds) == (81, 2)
    snapshot.read([Want("blob/c/0", at, at + 100) for at in range(0, 1_000_000, 101 + (128 << 10))])
    assert (snapshot.stats.requests, snapshot.stats.rounds) == (81 + 8, 3)


# -- versions ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_sees_the_newest_shape_and_then_nothing_new(ours):
    old = embeddings(ours)
    other = zarr.open_array(ours, path="emb", mode="r+")
    zarrvec.append(other, np.ones((3, 4), "f4"))
    snapshot = Snapshot.of(old)
    assert old.shape == (20, 4)
    assert snapshot.array.shape == (23, 4)
    assert snapshot.version == zarrvec.history(other)[0].number
    other[:] = 5
    write_index(Snapshot.of(other), blob=BLOB)
    assert snapshot.array[22].tolist() == [1, 1, 1, 1]
    assert snapshot.array[0].tolist() == [0, 0, 0, 0]
    with pytest.raises(CorruptError):
        snapshot.read([Want("blob/c/0")])
    assert Snapshot.of(old).array[0].tolist() == [5, 5, 5, 5]


def test_tokens(ours):
    array = embeddings(ours)
    first = Snapshot.of(array)
    assert first.token is not None
    assert first.token == Snapshot.of(zarr.open_array(ours, path="emb", mode="r")).token
    assert Snapshot.of(array).array is first.array
    array[0] = 1
    assert Snapshot.of(array).token != first.token
    assert Snapshot.of(zarrvec.at(array, first.version)).token == first.token


def test_elsewhere_nothing_is_known_of_versions():
    array = embeddings(MemoryStore())
    snapshot = Snapshot.of(array)
    assert (snapshot.is_versioned, snapshot.version, snapshot.token) == (False, None, None)
    array.resize((30, 4))  # as another thread may
    assert snapshot.array.shape == (20, 4)
    assert snapshot.generations() is None
    assert snapshot.generation("coverage/c/0") is None
    assert snapshot.changed(np.zeros(10, "u8"), (10, 1)) is None
    assert snapshot.read_with_generations([]) == ([], None)


def test_a_snapshot_of_a_past_version(ours):
    array = embeddings(ours)
    array[:] = 1
    write_index(Snapshot.of(array), blob=BLOB)
    past = zarrvec.history(array)[0].number
    array[:] = 2
    write_index(Snapshot.of(array), blob=BLOB[::-1].copy())
    snapshot = Snapshot.of(zarrvec.at(array, past))
    assert snapshot.version == past
    assert snapshot.array[:].max() == 1
    assert bytes(snapshot.read([Want("blob/c/0")])[0]) == BLOB.tobytes()
    assert snapshot.generations().max() < past


def test_inside_a_transaction(ours):
    array = embeddings(ours)
    array[:4] = 1
    before = Snapshot.of(array)
    with zarrvec.transaction(array):
        array[2:4] = 2
        array.resize((24, 4))
        write_index(Snapshot.of(array), blob=BLOB)
        snapshot = Snapshot.of(array)
        assert snapshot.token is None
        assert snapshot.version == before.version
        assert snapshot.array.shape == (24, 4)
        assert snapshot.array[:4, 0].tolist() == [1, 1, 2, 2]
        assert snapshot.head() == {"revision": "r1"}
        assert bytes(snapshot.read([Want("blob/c/0", 7, 17)])[0]) == BLOB[7:17].tobytes()
        assert snapshot.generations().tolist() == [before.version, STAGED] + [0] * 10
        assert snapshot.generation("blob/c/0") == STAGED
        since = snapshot.generations()
        assert snapshot.changed(since, snapshot.units().grid).tolist() == [False, True] + [False] * 10
    after = Snapshot.of(array)
    assert after.generations().tolist() == [before.version, after.version] + [0] * 10
    written = after.generation("blob/c/0")
    assert written == after.version
    grid = after.units().grid
    assert after.changed(since, grid).tolist() == [False, True] + [False] * 10
    assert not after.changed(since, grid, staged_at=written).any()
    assert after.generation("gone/c/0") == 0


def test_looking_does_not_vouch_for_an_old_handle(ours):
    """A write through a handle that has not seen the newest shape conflicts, whatever was searched meanwhile."""
    old = embeddings(ours)
    other = zarr.open_array(zarrvec.open_store(f"zarrvec://{_root(ours)}"), path="emb", mode="r+")
    other.resize((30, 4))
    assert Snapshot.of(old).array.shape == (30, 4)
    with pytest.raises(ConflictError):
        old.resize((10, 4))
    with pytest.raises(ConflictError), zarrvec.transaction(old):
        assert Snapshot.of(old).array.shape == (30, 4)
        old.resize((10, 4))


def _root(store):
    from zarrvec.faces.targets import repository_and_key

    return repository_and_key(store, "")[0].place.root


def test_an_array_that_is_gone(ours):
    array = embeddings(ours)
    zarr.open_group(ours, mode="a").create_group("emb", overwrite=True)
    with pytest.raises(SearchError, match="deleted or replaced"):
        Snapshot.of(array)
    del zarr.open_group(ours, mode="a")["emb"]
    with pytest.raises(SearchError, match="deleted or replaced"):
        Snapshot.of(array)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"zarr_format": 2},
        {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
    ],
)
def test_generations_by_any_name(ours, options):
    array = zarr.create_array(ours, name="a.b/emb", shape=(5, 7), chunks=(2, 3), dtype="f4", **options)
    array.attrs["note"] = 1
    zarr.create_array(ours, name="a.b/emb.vec/other", data=np.ones((9, 9), "f4"))
    array[0:2, 3:6] = 1
    array[4, 6] = 2
    snapshot = Snapshot.of(array)
    now = snapshot.version
    assert snapshot.units().grid == (3, 3)
    assert snapshot.generations().tolist() == [0, now - 1, 0, 0, 0, 0, 0, 0, now]
    assert dict(snapshot.array.attrs) == {"note": 1}
    assert snapshot.array[4, 6] == 2
    rows = snapshot.units().rows(snapshot.generations() == now)
    assert rows.tolist() == [False] * 4 + [True]
    with pytest.raises(ValueError, match="read-only"):
        snapshot.generations()[0] = 1


def test_pages_that_hold_none_of_the_units(ours, monkeypatch):
    """They reach from before the array to behind it, and something was deleted since they were written."""
    monkeypatch.setattr(fold, "DELTA_BYTES", 300)
    group = zarr.open_group(ours, mode="a")
    for name in "az":
        group.create_array(name, data=np.arange(40), chunks=(1,))
    monkeypatch.undo()
    del group["z"]
    array = embeddings(ours)
    array[:2] = 1
    snapshot = Snapshot.of(array)
    assert snapshot.generations().tolist() == [snapshot.version] + [0] * 9


def test_the_unit_of_a_sharded_array_is_the_shard(ours):
    array = zarr.create_array(ours, name="emb", shape=(10, 4), chunks=(2, 4), shards=(4, 4), dtype="f4")
    array[5] = 1
    snapshot = Snapshot.of(array)
    assert snapshot.generations().tolist() == [0, snapshot.version, 0]
    assert snapshot.units().rows(snapshot.generations() > 0).nonzero()[0].tolist() == [4, 5, 6, 7]


def test_units_that_a_smaller_grid_leaves_out(ours):
    array = embeddings(ours, rows=6)
    array[:] = 1
    first = Snapshot.of(array)
    array.resize((3, 4))
    second = Snapshot.of(array)
    assert second.generations().tolist() == [first.version] * 2
    array.resize((8, 4))
    third = Snapshot.of(array)
    assert third.changed(first.generations(), (3, 1)).tolist() == [False, False, True, False]
    assert third.generations().tolist() == [first.version] * 2 + [0, 0]


def test_changed_units_in_many_dimensions():
    since = np.arange(1, 7, dtype="u8")
    now = np.array([[1, 2, 0, 0], [4, 9, 0, 8]], dtype="u8").reshape(-1)
    changed = changed_units(now, (2, 4), since, (2, 3))
    assert changed.reshape(2, 4).tolist() == [[False, False, True, False], [False, True, True, True]]


def test_generations_come_out_alike_from_many_threads(ours):
    array = embeddings(ours, rows=200)
    array[::3] = 1
    expected = Snapshot.of(array).generations()
    array[0] = 2
    results = []

    def look():
        results.append(Snapshot.of(array).generations())

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for found in results:
        assert found[1:].tolist() == expected[1:].tolist()
        assert found[0] == expected[0] + 1


# -- entries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "entry_bytes"), [(0, 8), (1, 8), (5000, 24), (9973, 200)])
def test_entries_come_back(store, rows, entry_bytes):
    array = embeddings(store)
    versioned = Snapshot.of(array).is_versioned
    group = write_index(Snapshot.of(array))
    values = np.random.default_rng(rows).integers(0, 256, (rows, entry_bytes), dtype="u1")
    values[: rows // 3] = 0
    entries = create_entries(group, "s/entries", rows, entry_bytes)
    entries[:] = values
    reader = EntriesReader(
        name="s/entries",
        rows=entries.shape[0],
        entry_bytes=entries.shape[1],
        chunk_rows=entries.chunks[0],
        shard_rows=None if entries.shards is None else entries.shards[0],
    )
    planned = EntriesReader.planned("s/entries", rows, entry_bytes, versioned=versioned)
    assert (reader.chunk_rows, reader.shard_rows) == (planned.chunk_rows, planned.shard_rows)
    snapshot = Snapshot.of(array)
    wants = reader.index_wants()
    reader.take_indexes(wants, snapshot.read(wants))
    assert reader.index_wants() == []
    edges = np.sort(np.random.default_rng(1).integers(0, rows + 1, 40))
    spans = [(0, rows), *zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    parts = reader.join(spans, snapshot.read(reader.wants(spans)))
    for (start, stop), part in zip(spans, parts, strict=True):
        assert bytes(part) == values[start:stop].tobytes()


def test_target_is_a_place_to_write_to(ours):
    array = embeddings(ours)
    snapshot = Snapshot.of(array)
    assert isinstance(snapshot.target, StorePath)
    with zarrvec.transaction(array, message="both"):
        array[0] = 1
        write_index(snapshot, blob=BLOB)
    assert zarrvec.history(array)[0].message == "both"
    assert Snapshot.of(array).generation("blob/c/0") == Snapshot.of(array).generations()[0]
