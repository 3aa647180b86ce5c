"""How many requests do parts of an index and the generations of an array take, as counted before a real S3 server?"""

import numpy as np
import pytest
import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, ObjectStore

import zarrvec
from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.search.arrays import create_entries
from zarrvec.search.entries import EntriesReader
from zarrvec.search.places import Snapshot, Want

pytestmark = pytest.mark.usefixtures("quick_builds")

ROWS, ENTRY_BYTES = 60_000, 400
FAR = [(start, start + 100) for start in range(0, ROWS, 2000)]
NEAR = [(start, start + 100) for start in range(20_000, 25_000, 100 + (32 << 10) // ENTRY_BYTES)]


@pytest.fixture
def url(proxied_bucket):
    return f"zarrvec::{proxied_bucket.url}/data.zarr"


@pytest.fixture
def options(proxied_bucket):
    return {"s3": proxied_bucket.storage_options, "zarrvec": {"max_staleness": 60}}


def with_index(array, rows=ROWS):
    group = zarr.open_group(
        Snapshot.of(array).target, mode="a", attributes={"zarrvec_index": {"revision": "r"}}
    )
    versioned = Snapshot.of(array).is_versioned
    entries = create_entries(group, "s/entries", rows, ENTRY_BYTES)
    values = np.random.default_rng(0).integers(0, 256, (rows, ENTRY_BYTES), dtype="u1")
    entries[:] = values
    return EntriesReader.planned("s/entries", rows, ENTRY_BYTES, versioned=versioned), values


def read(snapshot, reader, values, spans):
    parts = reader.join(spans, snapshot.read(reader.wants(spans)))
    assert all(bytes(part) == values[a:b].tobytes() for part, (a, b) in zip(parts, spans, strict=True))


def check_waves(snapshot, reader, values, s3_proxy):
    s3_proxy.configure(ttfb="1000")  # what is asked for side by side overlaps, however busy the machine
    before = snapshot.stats.requests
    for spans, requests in ((FAR, 30), (NEAR, 1)):
        with s3_proxy.counting() as count:
            read(snapshot, reader, values, spans)
        assert count.total_requests == count.requests["GET"] == requests, count.log
        assert count.rounds == 1
        assert snapshot.stats.requests == before + requests
        before += requests
    s3_proxy.configure(ttfb="0")


def test_waves_of_reads(url, options, s3_proxy):
    array = zarr.create_array(
        url, name="emb", shape=(10, 4), chunks=(10, 4), dtype="f4", storage_options=options
    )
    array[:] = 1
    reader, values = with_index(array)
    run_sync(engines.close_engines())  # as in a new process
    array = zarr.open_array(url, path="emb", mode="r", storage_options=options)
    with s3_proxy.counting() as count:
        snapshot = Snapshot.of(array)
        assert snapshot.head() == {"revision": "r"}
        assert snapshot.generations().tolist() == [3]
    assert count.total_requests == 0, count.log
    check_waves(snapshot, reader, values, s3_proxy)
    with s3_proxy.counting() as count:
        again = Snapshot.of(array)
        assert again.read_with_generations([Want("s/entries/c/0/0", 0, 10)])[1].tolist() == [3]
    assert count.total_requests == again.stats.requests == 1


@pytest.mark.parametrize("kind", ["fsspec", "obstore"])
def test_waves_of_reads_on_a_plain_store(proxied_bucket, s3_proxy, kind):
    if kind == "fsspec":
        more = {"config_kwargs": {"max_pool_connections": 64}, "asynchronous": True}  # by default 10
        options = {**proxied_bucket.storage_options, **more}
        store: Store = FsspecStore.from_url(f"{proxied_bucket.url}/plain.zarr", storage_options=options)
    else:
        from obstore.store import S3Store

        store = ObjectStore(S3Store(**proxied_bucket.obstore_options))
    array = zarr.create_array(store, name="emb", shape=(10, 4), chunks=(10, 4), dtype="f4")
    reader, values = with_index(array)
    snapshot = Snapshot.of(array)
    with s3_proxy.counting() as count:
        assert snapshot.head() == {"revision": "r"}
        reader.take_indexes(wants := reader.index_wants(), snapshot.read(wants))
    assert count.total_requests == snapshot.stats.requests == 1 + reader.shards, [
        (r.kind, r.target, r.range) for r in count.log
    ]
    check_waves(snapshot, reader, values, s3_proxy)


@pytest.mark.parametrize("chunks", [1_000, 6_000])
def test_generations_of_a_cold_array(url, options, s3_proxy, chunks):
    array = zarr.create_array(
        url, name="emb", shape=(chunks, 4), chunks=(1, 4), dtype="f4", storage_options=options
    )
    array[:] = np.random.default_rng(0).random((chunks, 4), dtype="f4")
    with_index(array, 100)
    array[5] = 7
    run_sync(engines.close_engines())
    array = zarr.open_array(url, path="emb", mode="r", storage_options=options)
    s3_proxy.configure(ttfb="50")
    with s3_proxy.counting() as count:
        snapshot = Snapshot.of(array)
        generations = snapshot.generations()
    newest = zarrvec.history(array, limit=1)[0].number
    assert (generations == newest).nonzero()[0].tolist() == [5]
    assert len(set(generations.tolist())) == 2
    assert count.total_requests <= 1, count.log
    assert count.rounds <= 1
    assert snapshot.stats.requests == count.total_requests
    run_sync(engines.close_engines())
    array = zarr.open_array(url, path="emb", mode="r", storage_options=options)
    with s3_proxy.counting() as count:
        snapshot = Snapshot.of(array)
        snapshot.read_with_generations([Want("s/entries/c/0/0", 10, 20)])
    assert count.total_requests <= 2, count.log
    assert snapshot.stats.requests == count.total_requests
    assert snapshot.stats.rounds == count.rounds == 1
