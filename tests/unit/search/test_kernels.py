"""Are the nearest entries of posting lists in memory those that unpacking everything finds, whoever computes?"""

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarrvec.search import _numpy_kernels, kernels
from zarrvec.search.kernels import Found, ScanInput, merge, scan
from zarrvec.search.loading import Loader
from zarrvec.search.records import Entries, Layout

pytestmark = pytest.mark.once

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
both = pytest.mark.parametrize("name", ["numpy", pytest.param("numba", marks=needs_numba)])

ONES = np.ones(100, "f4")


@contextmanager
def computing_with(name):
    """Let scans take one implementation, whatever the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_loader", Loader())
        kernels._loader.missing = name == "numpy"
        assert name == "numpy" or kernels.compile_now()
        yield
        assert kernels.is_compiled() == (name == "numba")


class Lists:
    """Posting lists in memory, at addresses that no number would be aligned at, and what they hold."""

    def __init__(self, layout, entries, *, bits=8):
        self.layout, self.entries, self.bits = layout, entries, bits
        self.buffers = []
        for part in entries:
            packed = layout.pack(part)
            if bits == 4:
                packed = packed[: layout.head_bytes(len(part.ids))]
            buffer = np.empty(packed.size + 1, dtype=np.uint8)
            buffer[1:] = packed
            self.buffers.append(buffer[1:])
        self.given = ScanInput(
            layout=layout,
            addresses=np.array(
                [[buffer.ctypes.data if buffer.size else 0 for buffer in self.buffers]], np.uint64
            ),
            counts=np.array([[len(part.ids) for part in entries]], np.int64),
        )

    def scores(self, query, probes, base, allowed=None):
        """Return id and score of every entry that may be found, in float64."""
        ids, scores = [np.empty(0, np.int64)], [np.empty(0)]
        for number, bias in zip(probes, base, strict=True):
            if number < 0:
                continue
            held = self.layout.unpack(self.buffers[number], len(self.entries[number].ids), bits=self.bits)
            residuals = held.codes.astype(np.float64) - 128
            dots = bias + held.scales.astype(np.float64) * (residuals @ query.astype(np.float64))
            ids.append(held.ids.astype(np.int64))
            scores.append(-dots if held.norms is None else held.norms - 2 * dots)
        found, values = np.concatenate(ids), np.concatenate(scores)
        if allowed is not None:
            may = np.isin(found, np.flatnonzero(allowed))
            found, values = found[may], values[may]
        return found, values


def some_lists(rng, layout, counts, *, bits=8, rows=60):
    def entries(count):
        return Entries(
            rng.integers(0, rows, count),
            rng.uniform(0, 0.01, count).astype("f4"),
            np.zeros(count, "f4"),
            rng.uniform(0, 2, count).astype("f4") if layout.has_norms else None,
            rng.integers(0, 256, (count, layout.width), dtype=np.uint8),
        )

    return Lists(layout, [entries(count) for count in counts], bits=bits)


def some_queries(rng, layout, queries, nlist, probes):
    numbers = np.stack([rng.permutation(nlist)[:probes] for _ in range(queries)])
    numbers[rng.random(numbers.shape) < 0.1] = -1
    return (
        rng.normal(size=(queries, layout.width)).astype("f4"),
        numbers,
        rng.normal(size=numbers.shape).astype("f4"),
    )


def best(ids, scores, kept):
    """Return the `kept` best, each id once, by the plainest means."""
    least: dict[int, float] = {}
    for row, score in zip(ids.tolist(), scores.tolist(), strict=True):
        least[row] = min(score, least.get(row, np.inf))
    return sorted((score, row) for row, score in least.items())[:kept]


def check(lists, queries, probes, base, found, *, kept, allowed=None):
    for row in range(len(queries)):
        ids, scores = lists.scores(queries[row], probes[row], base[row], allowed)
        expected = best(ids, scores, kept)
        size = len(expected)
        assert found.ids[row, size:].tolist() == [-1] * (kept - size)
        assert np.isinf(found.scores[row, size:]).all()
        assert len(set(found.ids[row, :size].tolist())) == size
        # half a step of an int16 query in each dimension, times the largest code and scale, twice for l2
        atol = 2 * lists.layout.width * np.abs(queries[row]).max() / 65534 * 128 * 0.01 + 1e-5
        np.testing.assert_allclose(
            found.scores[row, :size], [score for score, _ in expected], rtol=1e-5, atol=atol
        )
        truth = {number: score for score, number in best(ids, scores, len(ids))}
        theirs = [truth[number] for number in found.ids[row, :size].tolist()]
        np.testing.assert_allclose(found.scores[row, :size], theirs, rtol=1e-5, atol=atol)
    assert found.scanned == lists.given.counts[0, probes[probes >= 0]].sum()


layouts = st.builds(
    Layout, width=st.integers(1, 70), id_bytes=st.sampled_from([4, 8]), has_norms=st.booleans()
)


@both
@given(data=st.data(), layout=layouts, bits=st.sampled_from([8, 4]), seed=st.integers(0, 2**32 - 1))
def test_equals_unpacking_everything(name, data, layout, bits, seed):
    rng = np.random.default_rng(seed)
    counts = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=8))
    lists = some_lists(rng, layout, counts, bits=bits)
    queries, probes, base = some_queries(
        rng, layout, data.draw(st.integers(1, 9)), len(counts), data.draw(st.integers(1, len(counts)))
    )
    masks = [None, rng.random(40) < 0.5, rng.integers(0, 2, 100, dtype=np.uint8), np.zeros(0, np.bool_)]
    allowed = data.draw(st.sampled_from(masks))
    kept = data.draw(st.integers(1, 80))
    with computing_with(name):
        found = scan(lists.given, queries, probes, base, kept=kept, bits=bits, allowed=allowed, threads=2)
    check(lists, queries, probes, base, found, kept=kept, allowed=allowed)


@both
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("width", [2, 100, 385])
def test_lists_longer_than_a_block(name, width, count, monkeypatch):
    monkeypatch.setattr(_numpy_kernels, "_BLOCK_SCORES", 20_000)
    rng = np.random.default_rng(width)
    sizes = [7000, 0, 1, 333, 60, 2]
    lists = some_lists(rng, Layout(width=width, id_bytes=4, has_norms=True), sizes, rows=5000)
    queries, probes, base = some_queries(rng, lists.layout, count, 6, 6)
    with computing_with(name):
        found = scan(lists.given, queries, probes, base, kept=100)
    check(lists, queries, probes, base, found, kept=100)


LOW_PLANES = {
    "any": lambda rng, shape: rng.integers(0, 16, shape),
    "zeros": lambda _rng, shape: np.zeros(shape),
    "fifteens": lambda _rng, shape: np.full(shape, 15),
    "of one number a row": lambda rng, shape: np.repeat(rng.integers(0, 16, (shape[0], 1)), shape[1], axis=1),
}


@both
@pytest.mark.parametrize("low", LOW_PLANES)
@pytest.mark.parametrize("kept", [1, 10, 300])
@pytest.mark.parametrize("width", [128, 200, 385])
@pytest.mark.parametrize("has_norms", [False, True])
def test_low_planes_count(name, low, kept, width, has_norms):
    """High planes alone don't tell the nearest, whatever the low ones are."""
    rng = np.random.default_rng(width + kept)
    layout = Layout(width=width, id_bytes=4, has_norms=has_norms)
    counts = rng.integers(0, 500, 20)

    def entries(count):
        high = np.clip(np.rint(rng.normal(8, 2, (count, width))), 0, 15)
        return Entries(
            rng.integers(0, 3000, count),
            rng.uniform(0.004, 0.006, count).astype("f4"),
            np.zeros(count, "f4"),
            rng.uniform(0, 2, count).astype("f4") if has_norms else None,
            (16 * high + LOW_PLANES[low](rng, (count, width))).astype(np.uint8),
        )

    lists = Lists(layout, [entries(count) for count in counts])
    for count, one_sided in ((1, False), (3, True)):
        queries, probes, _ = some_queries(rng, layout, count, len(counts), len(counts))
        queries = np.abs(queries) if one_sided else queries
        base = np.sort(rng.normal(size=probes.shape).astype("f4"), axis=1)[:, ::-1]
        allowed = rng.random(3000) < 0.3 if count == 3 else None
        with computing_with(name):
            found = scan(lists.given, queries, probes, base, kept=kept, allowed=allowed)
        check(lists, queries, probes, base, found, kept=kept, allowed=allowed)


@both
@pytest.mark.parametrize("rows", [150, 1500, 9000])
@pytest.mark.parametrize("kept", [1001, 1600, 9000])
def test_many_are_kept(name, kept, rows, monkeypatch):
    monkeypatch.setattr(kernels, "_TOLD_APART", 4 * kept)
    rng = np.random.default_rng(kept)
    lists = some_lists(rng, Layout(width=5, id_bytes=4, has_norms=True), [3000, 0, 900, 2500], rows=rows)
    queries, probes, base = some_queries(rng, lists.layout, 5, 4, 4)
    allowed = rng.random(9000) < 0.9
    with computing_with(name):
        found = scan(lists.given, queries, probes, base, kept=kept, allowed=allowed)
    check(lists, queries, probes, base, found, kept=kept, allowed=allowed)


@needs_numba
def test_time_is_not_quadratic_in_what_is_kept():
    layout, count = Layout(width=1, id_bytes=4, has_norms=False), 200_000
    codes = np.random.default_rng(0).integers(0, 256, (count, 1), dtype="u1")
    ones = np.ones(count, "f4")
    lists = Lists(layout, [Entries(np.arange(count), ones, ones, None, codes)])
    with computing_with("numba"):
        started = time.process_time()
        found = scan(lists.given, ones[:1, None], np.array([[0]]), np.zeros((1, 1), "f4"), kept=count)
        assert time.process_time() - started < 2  # 8 when each was compared with all others
    assert found.ids[0].tolist() == np.lexsort((np.arange(count), -codes[:, 0].astype(int))).tolist()


@both
@pytest.mark.parametrize("queries", [1, 3, 5])
def test_of_equal_scores_the_lower_id(name, queries):
    layout = Layout(width=3, id_bytes=8, has_norms=False)
    ids = np.random.default_rng(0).permutation(400) + 2**40
    flat = [Entries(part, ONES, ONES, None, np.full((100, 3), 128, "u1")) for part in np.split(ids, 4)]
    lists = Lists(layout, [*flat, flat[0]])
    probes = np.tile(np.arange(5), (queries, 1))
    with computing_with(name):
        found = scan(lists.given, np.ones((queries, 3), "f4"), probes, np.ones(probes.shape, "f4"), kept=9)
    assert found.ids.tolist() == [list(range(2**40, 2**40 + 9))] * queries
    assert (found.scores == -1).all()


@both
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("width", [4096, 70_001])
def test_extreme_codes_do_not_overflow(name, width, sign):
    layout = Layout(width=width, id_bytes=4, has_norms=False)
    codes = np.stack([np.zeros(width), np.full(width, 255), np.arange(width) % 256]).astype("u1")
    lists = Lists(layout, [Entries(np.arange(3), ONES[:3], ONES[:3], None, codes)])
    queries = np.full((2, width), sign * 1e20, "f4")
    probes, base = np.zeros((2, 1), np.int64), np.zeros((2, 1), "f4")
    with computing_with(name):
        found = scan(lists.given, queries, probes, base, kept=3)
    for row in range(2):
        ids, scores = lists.scores(queries[row], probes[row], base[row])
        order = np.argsort(scores)
        assert found.ids[row].tolist() == ids[order].tolist()
        np.testing.assert_allclose(found.scores[row], scores[order], rtol=width / 2**24)


@both
@pytest.mark.parametrize("query", [0, 1e-45, 1e-30])
def test_queries_of_no_length(name, query):
    rng = np.random.default_rng(0)
    lists = some_lists(rng, Layout(width=5, id_bytes=4, has_norms=False), [10])
    queries, probes, base = np.full((1, 5), query, "f4"), np.array([[0]]), np.array([[0.5]], "f4")
    with computing_with(name):
        found = scan(lists.given, queries, probes, base, kept=2)
    assert found.scores.tolist() == [[-0.5, -0.5]]


@both
def test_nothing_to_scan(name):
    layout = Layout(width=5, id_bytes=4, has_norms=False)
    none = ScanInput(layout=layout, addresses=np.empty((1, 0), np.uint64), counts=np.empty((1, 0), np.int64))
    with computing_with(name):
        empty = scan(none, np.ones((2, 5), "f4"), np.full((2, 3), -1), np.zeros((2, 3), "f4"), kept=2)
        assert empty.ids.tolist() == [[-1, -1]] * 2
        assert (
            scan(none, np.ones((2, 5), "f4"), np.empty((2, 0), int), np.empty((2, 0), "f4"), kept=1).scanned
            == 0
        )
        assert scan(
            none, np.ones((0, 5), "f4"), np.empty((0, 2), int), np.empty((0, 2), "f4"), kept=1
        ).ids.shape == (0, 1)


@both
def test_a_list_that_is_not_in_memory_is_passed_over(name):
    lists = some_lists(np.random.default_rng(0), Layout(width=5, id_bytes=4, has_norms=False), [10, 10])
    absent = ScanInput(
        layout=lists.layout,
        addresses=lists.given.addresses * np.array([0, 1], np.uint64),
        counts=lists.given.counts,
    )
    query, base = np.ones((1, 5), "f4"), np.zeros((1, 2), "f4")
    with computing_with(name):
        found = scan(absent, query, np.array([[0, 1]]), base, kept=4)
    check(lists, query, np.array([[-1, 1]]), base, found, kept=4)


@both
def test_threads_within_and_around(name):
    rng = np.random.default_rng(0)
    lists = some_lists(rng, Layout(width=33, id_bytes=4, has_norms=True), [50] * 30, rows=900)
    queries, probes, base = some_queries(rng, lists.layout, 41, 30, 12)

    def run(threads):
        return scan(lists.given, queries, probes, base, kept=10, threads=threads)

    with computing_with(name), ThreadPoolExecutor(4) as pool:
        alone, *others = pool.map(run, [1, 2, 3, 64, 1, 2])
    check(lists, queries, probes, base, alone, kept=10)
    for other in others:
        assert other.ids.tolist() == alone.ids.tolist()
        assert other.scores.tolist() == alone.scores.tolist()


@needs_numba
def test_whatever_arrays_are_given_compile_once():
    rng = np.random.default_rng(0)
    lists = some_lists(rng, Layout(width=6, id_bytes=4, has_norms=True), [20] * 5)
    queries, probes, base = some_queries(rng, lists.layout, 4, 5, 5)
    given = [queries, probes, base, np.ones(60, np.bool_), lists.given.addresses, lists.given.counts]
    for array in given:
        array.flags.writeable = False
    unaligned = [np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(array.dtype) for array in given]
    with computing_with("numba"):
        for variant in (
            [array.copy() for array in given],
            given,
            [np.repeat(array, 2, axis=-1)[..., ::2] for array in given],
            [part.reshape(array.shape) for part, array in zip(unaligned, given, strict=True)],
            [np.asfortranarray(queries.astype("f8")), probes.astype("i4"), base.astype("f2"), *given[3:]],
        ):
            vectors, numbers, bias, allowed, addresses, counts = variant
            held = ScanInput(layout=lists.layout, addresses=addresses, counts=counts)
            found = scan(held, vectors, numbers, bias, kept=5, allowed=allowed)
            check(lists, queries, numbers, bias, found, kept=5)
        assert len(kernels._loader.module.scan.signatures) == 1


@needs_numba
@pytest.mark.parametrize("after", [1, 2])
def test_the_rest_of_a_batch_is_for_compiled_code(after, monkeypatch):
    rng = np.random.default_rng(0)
    lists = some_lists(rng, Layout(width=9, id_bytes=4, has_norms=True), [20, 30, 0, 40] * 5, rows=500)
    queries, probes, base = some_queries(rng, lists.layout, 50, 20, 12)
    parts = []

    def scan_numpy(lists, queries, *arguments):
        parts.append(len(queries))
        if len(parts) == after:
            kernels.compile_now()
        return _numpy_kernels.scan_numpy(lists, queries, *arguments)

    monkeypatch.setattr(kernels, "_loader", Loader())
    monkeypatch.setattr(kernels, "_PART_PRODUCTS", 9 * 2000)
    monkeypatch.setattr(kernels, "scan_numpy", scan_numpy)
    found = scan(lists.given, queries, probes, base, kept=15, threads=2)
    check(lists, queries, probes, base, found, kept=15)
    assert len(parts) == after
    assert 0 < sum(parts) < 50


@both
def test_parts_merge_to_the_whole(name):
    rng = np.random.default_rng(0)
    lists = some_lists(rng, Layout(width=9, id_bytes=4, has_norms=True), [20] * 10)
    queries, probes, base = some_queries(rng, lists.layout, 4, 10, 10)
    with computing_with(name):
        whole = scan(lists.given, queries, probes, base, kept=15)
        halves = [
            scan(lists.given, queries, np.where(probes % 2 == part, probes, -1), base, kept=15)
            for part in range(2)
        ]
    merged = merge(halves, 15)
    np.testing.assert_allclose(merged.scores, whole.scores, rtol=1e-5)
    assert merged.scanned == whole.scanned


def test_merge_of_fewer_than_asked_for():
    part = Found(np.array([[3, -1]]), np.array([[1, np.inf]], "f4"), 5)
    assert merge([part], 3).ids.tolist() == [[3, -1, -1]]
    assert merge([part, part], 1).ids.tolist() == [[3]]
