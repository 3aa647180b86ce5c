"""Is the recall that was asked for had, on real embeddings: selections, codes of 4 bits, queries unlike the rows, appends?"""

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "text_minilm"
ROWS, K, SHORT = 31_000, 10, 0.01

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared data is not beside this checkout"),
]


@pytest.fixture(scope="module")
def minilm():
    """31,000 rows, 1,000 queries like them, and 1,000 that are not."""
    data = np.load(SHARED_DATA / "base.npy")
    chosen = np.random.default_rng(0).permutation(len(data))
    return data[chosen[1000:]], data[chosen[:1000]], np.load(SHARED_DATA / "query.npy")


@pytest.fixture(scope="module")
def array(minilm):
    rows = minilm[0]
    array = zarr.create_array(MemoryStore(), name="emb", data=rows, chunks=(2000, 384), compressors=None)
    array.vec.build_index(metric="cosine")
    return array


def recall_of(array, rows, queries, mask=None, k=K, **asked):
    """Return the share of hits that are as near as the k-th of all rows, up to rounding."""
    hits = array.vec.search(queries, k, where=mask, **asked)
    similarity = queries @ rows.T
    if mask is not None:
        assert mask[hits.ids].all()
        similarity[:, ~mask] = -np.inf
    assert all(len(set(ids)) == k for ids in hits.ids.tolist())
    least = -np.partition(-similarity, k - 1, axis=1)[:, k - 1]
    found = np.take_along_axis(similarity, hits.ids, axis=1)
    return float((found >= least[:, None] - 1e-6).mean()), hits.stats


@pytest.mark.parametrize("recall", [0.90, 0.95, 0.99])
def test_queries_like_the_rows(array, minilm, recall):
    rows, queries, _ = minilm
    found, _ = recall_of(array, rows, queries, recall=recall)
    assert found >= recall - SHORT
    assert array.vec.explain(queries, recall=recall).recall == pytest.approx(found, abs=0.015)


@pytest.mark.parametrize("recall", [0.90, 0.95, 0.99])
@pytest.mark.parametrize("rerank", [None, True])
def test_codes_of_4_bits(array, minilm, recall, rerank):
    rows, queries, _ = minilm
    found, stats = recall_of(array, rows, queries[:300], recall=recall, bits=4, rerank=rerank)
    assert stats.reranked or rerank is None
    assert found >= recall - SHORT


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("which", ["random", "near", "far"])
def test_selections(array, minilm, share, which):
    rows, queries, _ = minilm
    if which == "random":
        queries = queries[:300]
        mask = np.random.default_rng(1).random(ROWS) < share
    else:  # queries of one region, and the rows that are nearest to it, or farthest away
        centre = rows[np.argmax(rows @ rows[0])]
        queries = queries[np.argsort(-(queries @ centre))[:200]]
        order = np.argsort(-(rows @ centre) if which == "near" else rows @ centre)
        mask = np.zeros(ROWS, dtype=bool)
        mask[order[: round(share * ROWS)]] = True
    for recall in (0.9, 0.95):
        found, _ = recall_of(array, rows, queries, mask, recall=recall)
        assert found >= recall - SHORT


def test_queries_unlike_the_rows(minilm):
    rows, _, queries = minilm
    array = zarr.create_array(MemoryStore(), name="emb", data=rows, chunks=(2000, 384), compressors=None)
    array.vec.build_index(metric="cosine", queries=queries[:200])
    for recall in (0.90, 0.95, 0.99):
        found, stats = recall_of(array, rows, queries[200:], recall=recall)
        assert found >= recall - SHORT
        assert stats.unlike <= 80


def test_queries_unlike_the_rows_are_told(array, minilm):
    hits = array.vec.search(minilm[2], K)
    assert hits.stats.unlike > array.vec.search(minilm[1], K).stats.unlike


def test_after_appends(minilm):
    rows, queries, _ = minilm
    first = ROWS * 4 // 5
    array = zarr.create_array(
        MemoryStore(), name="emb", data=rows[:first], chunks=(2000, 384), compressors=None
    )
    array.vec.build_index(metric="cosine")
    for part in np.array_split(rows[first:], 5):
        array.vec.append(part)
    assert array.vec.info()["segments"] > 1
    for recall in (0.90, 0.95, 0.99):
        found, _ = recall_of(array, rows, queries[:500], recall=recall)
        assert found >= recall - SHORT
