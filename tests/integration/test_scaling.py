"""Does the scaling model of `benchmarks/scaling` still say what the code does? Counted at sizes that take a moment."""

import uuid

import pytest
import zarr

from benchmarks.scaling import chunks, compare, model_index, vectors
from benchmarks.scaling.model_index import Index
from zarrvec.search import index as index_module

pytestmark = pytest.mark.once

pytest.importorskip("faiss")

COUNTS = {"requests", "rounds", "pages", "lists", "groups"}
LEAST_BYTES = 2_000
"""What is shorter is metadata documents for the most part."""


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Fewer commits than where figures are made."""
    monkeypatch.setattr(chunks, "REAL", 1_000)
    monkeypatch.setattr(chunks, "SINGLES", 24)
    monkeypatch.setattr(chunks, "BURSTS", 5)
    monkeypatch.setattr(vectors, "COLD", 4)
    monkeypatch.setattr(vectors, "WARM", 12)


def differences(pairs, *, bytes_off=0.3, requests_off=0.15):
    """Return the figures in which model and count differ by more than that."""
    wrong = []
    for pair in pairs:
        is_count = pair.figure in COUNTS
        least = 0.7 if is_count else LEAST_BYTES
        allowed = (requests_off if is_count else bytes_off) * pair.counted
        if abs(pair.model - pair.counted) > max(allowed, least):
            wrong.append(pair)
    return "\n".join(map(str, wrong))


def counted_store(bucket, proxy, count):
    chunks.fill(bucket, count, 3_000)
    store = chunks.Store(bucket, proxy, count)
    found = {"chunks": count, "per_pack": 3_000, "told": store.told()}
    steps = (
        "open_and_read",
        "read_adjacent",
        "write_bursts",
        "write_singles",
        "list_all",
        "list_folder",
        "open_aged",
    )
    return found | {step: getattr(store, step)() for step in steps}


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_chunks(s3_bucket, s3_proxy, count):
    found = counted_store(s3_bucket, s3_proxy, count)
    assert not differences(compare.of_chunks(found))


def test_an_index(s3_bucket, s3_proxy, monkeypatch):
    for module in (index_module, model_index):
        monkeypatch.setattr(module, "WHOLE_BYTES", 1 << 20)  # else so small an index is read whole
    found = vectors.build(s3_bucket, s3_proxy, 20_000, 64)
    found |= vectors.searches(s3_bucket, s3_proxy, 64)
    found["cold_folded"] = vectors.search_folded(s3_bucket, s3_proxy, 64)
    found["append"] = vectors.append(s3_bucket, s3_proxy, 64)
    pairs = [pair for pair in compare.of_vectors(found) if pair.figure not in ("memory", "temporary")]
    assert not differences(pairs, requests_off=0.3)


def test_no_more_lists_than_rows_in_the_sample():
    """A bound on memory is one on lists."""
    index = Index(rows=5_000, width=768, nlist=400, memory_bytes=1 << 20)
    assert index.lists < index.wanted_lists
    root = zarr.open_group(f"zarrvec::memory://scaling-{uuid.uuid4().hex}", mode="a")
    data = next(vectors.rows(768, 5_000))
    array = root.create_array("x", data=data, chunks=(341, 768), compressors=None)
    array.vec.build_index(metric="cosine", nlist=400, memory_bytes=1 << 20)
    assert array.vec.info()["lists"] == index.lists
