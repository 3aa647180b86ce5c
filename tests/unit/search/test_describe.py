"""Does `explain` tell what a search then does?"""

import json
import re

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from zarrvec.errors import OptionError, SearchError
from zarrvec.search import describe
from zarrvec.search.cache import LISTS, ROOTS

pytestmark = pytest.mark.usefixtures("quick_builds")

DATA = np.random.default_rng(0).normal(size=(3000, 16)).astype("f4")


@pytest.fixture(scope="module")
def array():
    array = zarr.create_array(MemoryStore(), name="emb", data=DATA, chunks=(500, 16), compressors=None)
    array.vec.build_index(metric="l2")
    return array


def cold():
    ROOTS.clear()
    LISTS.clear()


@pytest.mark.parametrize(
    "asked", [{}, {"bits": 4, "rerank": True}, {"nprobe": 3, "k": 2}, {"memory_bytes": 3000}]
)
def test_requests_and_bytes_are_those_of_the_search(array, asked):
    queries = DATA[:3] + 0.1
    cold()
    plan = array.vec.explain(queries, **asked)
    cold()
    stats = array.vec.search(queries, **asked).stats
    assert (plan.requests, plan.bytes, plan.rounds) == (stats.requests, stats.bytes_read, stats.rounds)
    assert (plan.lists, plan.nprobe, plan.rerank) == (stats.lists, stats.nprobe, stats.reranked)
    assert plan.opening_requests > 0
    again = array.vec.explain(queries, **asked)
    assert again.cached == again.lists
    assert again.bytes < plan.bytes
    assert again.seconds < plan.seconds


def test_what_is_printed(array):
    cold()
    plan = array.vec.explain(DATA[0], recall=0.9)
    text = str(plan)
    assert f"lists, {plan.lists} of 30" in text
    assert "1 query, k=10" in text
    assert f"{plan.requests} in " in text
    assert json.loads(json.dumps(plan.to_dict()))["dollars_per_million"] == pytest.approx(0.4 * plan.requests)
    assert plan.recall is not None
    assert 0.9 <= plan.recall <= 1
    assert array.vec.explain(DATA[:2], k=2000).recall is None
    batch = array.vec.explain(DATA[:50])
    assert "50 queries" in str(batch)
    assert batch.lists <= 30


def test_a_typical_query(array):
    cold()
    plan = array.vec.explain()
    assert plan.typical
    assert "a typical query" in str(plan)
    assert 1 <= plan.lists <= 30
    one = array.vec.explain(DATA[0])
    assert plan.nprobe == one.nprobe
    assert one.bytes / 3 < array.vec.explain().bytes < 3 * one.bytes


def test_time_at_a_given_latency(array):
    cold()
    plan = array.vec.explain(DATA[0], latency_seconds=0.5, bytes_per_second=1e6)
    assert plan.seconds == pytest.approx(0.5 * plan.rounds + plan.bytes / 1e6)
    for wrong in ({"latency_seconds": -1}, {"bytes_per_second": 0}, {"latency_seconds": float("nan")}):
        with pytest.raises(OptionError, match="seconds"):
            array.vec.explain(DATA[0], **wrong)


def test_all_rows(array):
    where = np.arange(3000) < 700
    for asked, why in (({"exact": True}, "exact"), ({"recall": 1}, "exact")):
        plan = array.vec.explain(DATA[0], where=where, **asked)
        assert plan.way == "all rows"
        assert why in plan.because
        assert (plan.rows, plan.chunks, plan.chunk_bytes) == (700, 2, 1000 * 64)
    plain = zarr.create_array(MemoryStore(), name="emb", data=DATA, chunks=(500, 16))
    assert plain.vec.explain(DATA[0]).because == "there is no index"
    assert "3,000 in 6 chunks" in str(plain.vec.explain(k=3))


def test_rows_in_no_list():
    array = zarr.create_array(MemoryStore(), name="emb", data=DATA, chunks=(500, 16), compressors=None)
    array.vec.build_index(metric="l2")
    array.vec.append(DATA[:20])
    array.vec.delete([3001])
    plan = array.vec.explain(DATA[0])
    assert (plan.rows, plan.chunks) == (19, 1)
    assert array.vec.search(DATA[0]).stats.vectors == 19


def test_what_cannot_be_searched(array):
    with pytest.raises(SearchError, match="width"):
        array.vec.explain([1, 2])
    with pytest.raises(SearchError, match="k=0"):
        array.vec.explain(k=0)
    with pytest.raises(SearchError, match="index is for 'l2'"):
        array.vec.explain(DATA[0], metric="cosine")


@pytest.mark.parametrize("look", [lambda array: array.vec.info(), lambda array: array.vec.explain(k=3)])
def test_an_index_that_is_replaced_while_it_is_looked_at(look, monkeypatch):
    array = zarr.create_array({}, name="emb", data=np.random.default_rng(0).normal(size=(300, 8)))
    array.vec.build_index(nlist=4)
    opening, changes = describe.open_index, [array.vec.build_index]

    def late(snapshot, head):
        if changes:
            changes.pop()()
        return opening(snapshot, head)

    monkeypatch.setattr(describe, "open_index", late)
    ROOTS.clear()
    assert look(array)
    assert not changes


def test_explain_knows_what_is_no_metric():
    array = zarr.create_array({}, name="emb", data=np.eye(3))
    with pytest.raises(OptionError, match="euclid"):
        array.vec.explain(metric="euclid")


def test_explain_needs_no_metric_of_the_array_where_search_does_not():
    array = zarr.create_array({}, name="emb", data=DATA)
    array.attrs["zarrvec"] = {"metric": "euclid"}
    with pytest.raises(OptionError, match="euclid"):
        array.vec.explain(DATA[0], 3)
    assert array.vec.explain(DATA[0], 3, metric="l2").way == "all rows"
    array.vec.build_index(metric="l2")
    assert array.vec.explain(DATA[0], 3).way == "lists"


@pytest.mark.parametrize("name", ["latency_seconds", "bytes_per_second"])
@pytest.mark.parametrize("value", ["a", None, [1], True, -1, float("nan")])
def test_explain_wants_numbers(array, name, value):
    with pytest.raises(OptionError, match=f"{name}={re.escape(repr(value))}"):
        array.vec.explain(**{name: value})


def test_explain_tells_of_a_forgotten_return(array):
    with pytest.raises(SearchError, match="returned None"):
        array.vec.explain(where=lambda _: None)


def test_explain_sees_queries_that_products_do_not_bear(array):
    plan = array.vec.explain(DATA[:2] * 1e16, 3)
    assert (plan.way, plan.lists) == ("all rows", 0)
    assert array.vec.search(DATA[:2] * 1e16, 3).stats.lists == 0


@pytest.mark.parametrize("k", [2999, 3000, 3001, 10**6])
def test_explain_of_more_hits_than_rows(array, k):
    cold()
    plan = array.vec.explain(DATA[:2], k)
    cold()
    stats = array.vec.search(DATA[:2], k).stats
    assert (plan.requests, plan.bytes, plan.lists) == (stats.requests, stats.bytes_read, stats.lists)
