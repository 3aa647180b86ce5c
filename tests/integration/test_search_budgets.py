"""Requests, rounds and bytes of a search, against the design's section 9, counted by a proxy before a real S3 server."""

import dataclasses
import uuid
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore

import zarrvec
from benchmarks.scaling.vectors import forget
from zarrvec.engine import heads
from zarrvec.search import entries

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS = 31_000
WAVE = {"ttfb": "300"}  # what is asked for side by side overlaps, however busy the machine

pytestmark = pytest.mark.skipif(
    not SHARED_DATA.exists(), reason="the shared data is not beside this checkout"
)


def lines(count):
    return "\n".join(f"{r.kind} {r.target[-30:]} {r.range} {r.start:.3f} {r.end:.3f}" for r in count.log)


@pytest.fixture(scope="module")
def minilm():
    return np.load(SHARED_DATA / "text_minilm" / "base.npy")


@pytest.fixture(scope="module")
def place(s3_server, minilm):
    """Where an array of 31,000 x 384 with its index is, which tests don't change."""
    place = dataclasses.replace(s3_server, prefix=f"search-budgets-{uuid.uuid4().hex}")
    array = create(place, minilm[:ROWS])
    array.vec.build_index()
    return place


def create(place, data, name="emb", chunks=1000):
    root = zarr.open_group(f"zarrvec::{place.url}/data.zarr", mode="a", storage_options=options_of(place))
    array = root.create_array(name, shape=data.shape, chunks=(chunks, 384), dtype="f4", compressors=None)
    with zarrvec.transaction(array, message="embeddings and a column"):
        array[:] = data
        year = root.create_array(f"{name}-year", shape=len(data), chunks=len(data), dtype="i2")
        year[:] = np.arange(len(data)) % 100 + 1900
    return array


def options_of(place):
    return {"s3": place.storage_options, "zarrvec": {"max_staleness": 60}}


@pytest.fixture
def reopen(s3_proxy):
    """Open an array through the proxy with nothing in memory, but its own metadata."""

    def open_cold(place, name="emb"):
        s3_proxy.configure(ttfb="0")
        forget()
        proxied = dataclasses.replace(place, endpoint_url=s3_proxy.endpoint_url)
        url = f"zarrvec::{proxied.url}/data.zarr"
        return zarr.open_array(url, path=name, mode="r", storage_options=options_of(proxied))

    return open_cold


def counted(s3_proxy, search, **settings):
    s3_proxy.configure(**{**WAVE, **settings})
    with s3_proxy.counting() as count:
        hits = search()
    s3_proxy.configure(ttfb="0")
    return hits, count


def test_cold_and_warm(place, reopen, s3_proxy, minilm):
    array = reopen(place)
    hits, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS], recall=0.95))
    assert count.total_requests <= 40, lines(count)
    assert count.bytes_out <= 4 << 20
    assert count.rounds <= 2, lines(count)
    assert (hits.stats.requests, hits.stats.rounds) == (count.total_requests, count.rounds)
    assert hits.stats.bytes_read == count.bytes_out
    for query in minilm[ROWS + 1 : ROWS + 4]:
        hits, count = counted(s3_proxy, lambda query=query: array.vec.search(query, recall=0.95))
        assert count.total_requests <= 40
        assert count.rounds <= 1, lines(count)
    again, count = counted(s3_proxy, lambda: array.vec.search(query, recall=0.95))
    assert count.total_requests == again.stats.requests == 0, lines(count)
    assert again.ids.tolist() == hits.ids.tolist()


@pytest.mark.once
@pytest.mark.parametrize("chunk_bytes", [entries.CHUNK_BYTES, 64 << 10])
def test_cold_when_others_have_folded_the_delta(
    s3_server, reopen, s3_proxy, minilm, monkeypatch, chunk_bytes
):
    monkeypatch.setattr(
        entries, "CHUNK_BYTES", chunk_bytes
    )  # of a small one the keys are as many as of 3 GB of lists
    place = dataclasses.replace(s3_server, prefix=f"search-folded-{uuid.uuid4().hex}")
    create(place, minilm[:ROWS]).vec.build_index()
    root = zarr.open_group(f"zarrvec::{place.url}/data.zarr", mode="a", storage_options=options_of(place))
    root.create_array("emb-z", shape=9000, chunks=1, dtype="u1", fill_value=1)[:] = (
        0  # two pages between array and index
    )
    array = reopen(place)
    hits, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS], recall=0.95))
    assert count.total_requests <= 40, lines(count)
    assert count.rounds <= 2, lines(count)
    assert (hits.stats.requests, hits.stats.rounds) == (count.total_requests, count.rounds)


def test_a_batch_shares_reads(place, reopen, s3_proxy, minilm):
    array = reopen(place)
    array.vec.search(minilm[ROWS], k=1, nprobe=1)
    hits, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS : ROWS + 100]))
    assert hits.stats.nprobe * 100 > 3 * hits.stats.lists
    assert count.total_requests <= 20
    assert count.rounds == 1, lines(count)


def test_what_comes_along(place, reopen, s3_proxy, minilm):
    array = reopen(place)
    array.vec.search(minilm[ROWS])
    hits, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS], include=["vectors", "emb-year"]))
    assert hits.vectors.tolist() == minilm[hits.ids].tolist()
    assert hits.columns["emb-year"].tolist() == (hits.ids % 100 + 1900).tolist()
    assert count.total_requests <= 10 + 1, lines(count)
    assert count.rounds <= 3, lines(count)


@pytest.mark.parametrize(
    "asked", [{}, {"recall": 0.99}, {"bits": 4}, {"nprobe": 5}, {"k": 100, "recall": 0.9}]
)
@pytest.mark.parametrize("queries", [1, 20])
def test_what_was_explained(place, reopen, s3_proxy, minilm, asked, queries):
    given = minilm[ROWS : ROWS + queries]
    plan = reopen(place).vec.explain(given, **asked)
    array = reopen(place)
    hits, count = counted(s3_proxy, lambda: array.vec.search(given, **asked), ttfb="0")
    stats = hits.stats
    assert (plan.lists, plan.nprobe, plan.rerank) == (stats.lists, stats.nprobe, stats.reranked)
    assert (stats.requests, stats.bytes_read) == (count.total_requests, count.bytes_out), lines(count)
    told, taken = (plan.requests, plan.bytes, plan.rounds), (stats.requests, stats.bytes_read, stats.rounds)
    assert told < taken if plan.rerank else told == taken  # chunks of rows are told apart
    again = array.vec.explain(given, **asked)
    assert (again.requests, again.bytes, again.rounds) == (0, 0, 0)
    assert again.cached == again.lists == stats.lists


def test_rows_and_columns_are_counted(s3_server, reopen, s3_proxy, minilm):
    place = dataclasses.replace(s3_server, prefix=f"search-budgets-{uuid.uuid4().hex}")
    array = create(place, minilm[:5000])
    array.vec.build_index()
    array[17] = minilm[6000]
    for asked in ({}, {"exact": True}, {"include": ["vectors", "emb-year"]}, {"rerank": True}):
        array = reopen(place)
        hits, count = counted(
            s3_proxy, lambda array=array, asked=asked: array.vec.search(minilm[ROWS], **asked)
        )
        taken = hits.stats.requests, hits.stats.bytes_read, hits.stats.rounds
        assert taken == (count.total_requests, count.bytes_out, count.rounds), (asked, lines(count))


def test_an_index_in_pages_of_the_manifest(place, reopen, s3_proxy, minilm):
    array = reopen(place)
    with zarrvec.transaction(
        zarr.open_group(f"zarrvec::{place.url}/data.zarr", mode="a", storage_options=options_of(place)),
        message="so many keys that the delta is folded into pages",
    ) as _:
        root = zarr.open_group(f"zarrvec::{place.url}/data.zarr", mode="a", storage_options=options_of(place))
        root.create_array("many", shape=5000, chunks=1, dtype="u1", fill_value=1)[:] = 0
    array = reopen(place)
    hits, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS], recall=0.95))
    assert count.total_requests <= 40
    assert count.bytes_out <= 4 << 20
    assert count.rounds <= 3, lines(count)
    assert (hits.stats.requests, hits.stats.rounds) == (count.total_requests, count.rounds)


def test_a_small_index_is_read_whole(s3_server, reopen, s3_proxy, minilm):
    place = dataclasses.replace(s3_server, prefix=f"search-budgets-{uuid.uuid4().hex}")
    create(place, minilm[:5000]).vec.build_index()
    array = reopen(place)
    _, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS]))
    assert count.total_requests == count.rounds == 1, lines(count)
    _, count = counted(s3_proxy, lambda: array.vec.search(minilm[-1]))
    assert count.total_requests == 0, lines(count)


def test_append(s3_server, s3_proxy, minilm, monkeypatch):
    monkeypatch.setattr(heads, "ALONE_SECONDS", 1e9)  # it looks for no newer commit then
    place = dataclasses.replace(s3_server, endpoint_url=s3_proxy.endpoint_url, prefix=uuid.uuid4().hex)
    array = create(place, minilm[:5000])
    array.vec.build_index()
    array.vec.search(minilm[0])
    _, count = counted(s3_proxy, lambda: array.vec.append(minilm[20_000:25_000]), ttfb="0")
    assert count.total_requests == 4, lines(
        count
    )  # this process was alone: it doesn't look for a newer commit
    hits = array.vec.search(minilm[20_007], k=1)
    assert hits.ids.tolist() == [5007]
    assert hits.stats.vectors == 0
    array.vec.append(minilm[25_000:25_500])  # ends within a chunk
    _, count = counted(s3_proxy, lambda: array.vec.append(minilm[25_500:30_500]), ttfb="0")
    assert count.total_requests == 4, lines(count)  # nor does it read its last chunk again
    assert array.vec.search(minilm[25_507], k=1).ids.tolist() == [10_507]
    _, count = counted(s3_proxy, lambda: array.vec.append(minilm[31_000:32_000]), ttfb="0")
    assert count.total_requests == 2, lines(count)  # all in one pack
    for seconds, looks in ((1e9, 0), (0, 1)):
        monkeypatch.setattr(heads, "ALONE_SECONDS", seconds)
        _, count = counted(s3_proxy, lambda: array.vec.append(minilm[:100]), ttfb="0")
        assert count.requests["GET"] == looks, lines(count)


def test_append_where_rows_wait(s3_server, s3_proxy, minilm):
    place = dataclasses.replace(s3_server, endpoint_url=s3_proxy.endpoint_url, prefix=uuid.uuid4().hex)
    create(place, minilm[:5000]).vec.build_index()
    url, options = f"zarrvec::{place.url}/data.zarr", options_of(place)
    zarr.open_array(url, path="emb", mode="r+", storage_options=options).vec.append(minilm[5000:5500])
    forget()
    array = zarr.open_array(url, path="emb", mode="r+", storage_options=options)
    array.vec.search(minilm[0])
    _, count = counted(s3_proxy, lambda: array.vec.append(minilm[5500:10_500]), ttfb="0")
    assert count.total_requests == 5, lines(count)
    hits = array.vec.search(minilm[[5007, 10_007]], k=1)
    assert (hits.ids[:, 0].tolist(), hits.stats.vectors) == ([5007, 10_007], 0)


def test_on_a_store_of_s3fs(s3_server, s3_proxy, minilm):
    place = dataclasses.replace(s3_server, endpoint_url=s3_proxy.endpoint_url, prefix=uuid.uuid4().hex)
    more = {"config_kwargs": {"max_pool_connections": 64}, "asynchronous": True}  # by default 10
    store = FsspecStore.from_url(f"{place.url}/plain.zarr", storage_options={**place.storage_options, **more})
    array = zarr.create_array(store, name="emb", data=minilm[:12_000], chunks=(4000, 384), compressors=None)
    array.vec.build_index()
    forget()
    hits, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS], recall=0.95))
    assert count.total_requests <= 40 + 2
    assert count.bytes_out <= 4 << 20
    assert count.rounds <= 3, lines(count)
    assert (hits.stats.requests, hits.stats.bytes_read) == (count.total_requests, count.bytes_out)
    hits, count = counted(s3_proxy, lambda: array.vec.search(minilm[ROWS + 1], recall=0.95))
    assert count.total_requests <= 40 + 1
    assert count.rounds <= 2, lines(count)
    plan = array.vec.explain(minilm[ROWS + 2])
    hits = array.vec.search(minilm[ROWS + 2])
    assert (plan.requests, plan.bytes) == (hits.stats.requests, hits.stats.bytes_read)
