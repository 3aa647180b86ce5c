"""Is the next search right whatever was done to array and index before it, without a rebuild?

Random operations are applied to an array with an index and to a numpy array. After each, a search of all posting lists must
agree with numpy: no row nearer than the last hit is left out, no distance is off by more than the codes allow, no deleted
row is found.
"""

import asyncio
import pickle
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import FsspecStore, LocalStore, MemoryStore

import zarrvec
from zarrvec.cli.copying import copy_store, open_source
from zarrvec.search import extending, groups, optimize
from zarrvec.search.metrics import pair_distances, unit_rows

pytestmark = pytest.mark.usefixtures("quick_builds")

ALL = 10**6
"""More lists than there are."""
DIMENSIONS = 6


@dataclass(frozen=True, kw_only=True)
class Case:
    """An array, and where it is."""

    store: str
    metric: str
    dtype: str
    leading: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    fill: float = 0
    scale: float = 1
    shift: float = 0


OURS = ("local", "url")
PLAIN = ("memory", "plain", "fsspec")

shapes = st.sampled_from(
    [
        {"leading": (40,), "chunks": (7, DIMENSIONS)},
        {"leading": (40,), "chunks": (8, 4)},
        {"leading": (33,), "chunks": (4, DIMENSIONS), "shards": (8, DIMENSIONS)},
        {"leading": (33,), "chunks": (4, 3), "shards": (8, 6)},
        {"leading": (7, 6), "chunks": (3, 4, DIMENSIONS)},
        {"leading": (6, 8), "chunks": (2, 4, 3), "shards": (4, 4, 6)},
    ]
)


@st.composite
def cases(draw, stores):
    return Case(
        store=draw(st.sampled_from(stores)),
        metric=draw(st.sampled_from(["cosine", "l2", "ip"])),
        dtype=draw(st.sampled_from(["float32", "float16", "float64", "int8", "uint8"])),
        fill=draw(st.sampled_from([0, 3])),
        **draw(shapes),
    )


seeds = st.integers(0, 99)
anywhere = st.tuples(st.integers(0, 60), st.integers(1, 20))
appended = st.tuples(st.just("append"), st.integers(1, 25), seeds)
simple = st.one_of(
    appended,
    appended,
    st.tuples(st.just("plain append"), st.integers(1, 12), seeds),
    st.tuples(st.just("set"), anywhere, st.sampled_from([slice(None), slice(1, 4)]), seeds),
    st.tuples(st.just("spoil"), anywhere),
    st.tuples(st.just("fill"), anywhere),
    st.tuples(st.just("grow"), st.integers(0, 1), st.integers(1, 9)),
    st.tuples(st.just("shrink"), st.integers(0, 1), st.integers(1, 30)),
    st.tuples(st.just("delete"), anywhere),
    st.tuples(st.just("optimize")),
    st.tuples(st.just("build")),
    st.tuples(st.just("drop")),
)
other = st.one_of(
    st.tuples(st.just("transaction"), st.lists(simple, min_size=1, max_size=4)),
    st.tuples(st.just("discarded"), st.lists(simple, min_size=1, max_size=3)),
    st.tuples(st.just("erase chunk"), st.integers(0, 5)),
    st.tuples(st.just("reopen"), st.sampled_from(["url", "local", "pickle"])),
    st.tuples(st.just("revert")),
    st.tuples(st.just("go back"), st.integers(1, 6)),
    st.tuples(st.just("copy")),
    st.tuples(st.just("make anew"), st.booleans()),
)
on_ours = st.lists(st.one_of(simple, simple, other), min_size=1, max_size=9)
elsewhere = st.lists(
    st.one_of(
        appended,
        st.tuples(st.just("plain append"), st.integers(1, 12), seeds),
        st.tuples(st.just("grow"), st.just(0), st.integers(1, 9)),
        st.tuples(st.just("cut and append"), st.integers(1, 30), st.integers(1, 25), seeds),
        st.tuples(st.just("delete"), anywhere),
        st.tuples(st.just("optimize")),
        st.tuples(st.just("build")),
        st.tuples(st.just("drop")),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(autouse=True, params=["flat", "grouped"])
def _small_thresholds(request, monkeypatch):
    """Make segments, merges, splits and rebuilds of a few rows; with a root of one level and of two."""
    if request.param == "grouped":
        monkeypatch.setattr(groups, "ROOT_BYTES", 100)
    monkeypatch.setattr(extending, "PENDING_BYTES", 400)
    monkeypatch.setattr(optimize, "OVERGROWN", 1.5)
    monkeypatch.setattr(optimize, "LEAST_MEAN", 4.0)


class Machine:
    def __init__(self, case: Case, folder: str) -> None:
        self.case = case
        self.url = f"{folder}/data.zarr"
        self.root = self.open(case.store)
        rng = np.random.default_rng(1)
        shape = (*case.leading, DIMENSIONS)
        self.array: Any = self.make(case.fill)
        self.data: Any = np.full(shape, case.fill, dtype=case.dtype)
        self.hidden: set[tuple[int, ...]] = set()
        self.put(np.s_[: case.leading[0] - 5], self.draw(rng, (case.leading[0] - 5, *shape[1:])))
        self.indexed = True
        self.grown = 0
        self.array.vec.build_index(metric=case.metric, nlist=5)
        self.past: list[Any] = []
        """On our stores: numbers of commits, and what there was then."""
        self.remember()

    def make(self, fill: float) -> zarr.Array[Any]:
        case = self.case
        return self.root.create_array(
            "emb",
            shape=(*case.leading, DIMENSIONS),
            chunks=case.chunks,
            shards=case.shards,
            dtype=case.dtype,
            fill_value=fill,
            overwrite=True,
        )

    def open(self, face: str) -> zarr.Group:
        match face:
            case "memory":
                return zarr.open_group(MemoryStore(), mode="a")
            case "plain":
                return zarr.open_group(LocalStore(self.url), mode="a")
            case "fsspec":
                store = FsspecStore.from_url(f"file://{self.url}", storage_options={"auto_mkdir": True})
                return zarr.open_group(store, mode="a")
            case "url":
                return zarr.open_group(f"zarrvec://{self.url}", mode="a")
        return zarr.open_group(zarrvec.open_store(f"zarrvec://{self.url}"), mode="a")

    def draw(self, rng, shape):
        if np.dtype(self.case.dtype).kind in "iu":
            return rng.integers(0, 120, shape).astype(self.case.dtype)
        rows = self.case.shift + self.case.scale * rng.standard_normal(shape)
        return rows.astype(self.case.dtype)

    def put(self, place, values):
        self.array[place] = values
        self.data[place] = values

    def place(self, at):
        start, count = at
        start %= max(1, self.data.shape[0])
        return slice(start, min(start + count, self.data.shape[0]))

    @property
    def deleted(self):
        """Rows stay deleted when they are cut off, also for those that come back in their places."""
        deleted = np.zeros(self.data.shape[:-1], dtype=bool)
        for row in self.hidden:
            if all(at < length for at, length in zip(row, deleted.shape, strict=True)):
                deleted[row] = True
        return deleted

    def resize(self, axis, by):
        if axis >= self.data.ndim - 1:
            axis = 0
        shape = list(self.data.shape)
        shape[axis] = max(0, shape[axis] + by)
        self.array.resize(tuple(shape))
        self.data = np.asarray(self.array[...])  # what is left in the chunks at the edge is seen again

    def apply(self, kind, *given) -> None:
        match kind:
            case "append" | "plain append":
                count, seed = given
                rows = self.draw(np.random.default_rng(seed), (count, *self.data.shape[1:]))
                if kind == "append":
                    shape = self.array.vec.append(rows)
                elif self.case.store in OURS:
                    shape = zarrvec.append(self.array, rows)
                else:
                    shape = self.array.append(rows)
                self.data = np.concatenate([self.data, rows])
                if kind == "append" and self.indexed:
                    old = len(self.data) - count
                    self.hidden = {row for row in self.hidden if row[0] < old}
                assert shape == self.data.shape
            case "set":
                at, columns, seed = given
                place = (self.place(at), ..., columns)
                self.put(place, self.draw(np.random.default_rng(seed), self.data[place].shape))
            case "spoil":
                value = np.nan if np.dtype(self.case.dtype).kind == "f" else 0
                self.put((self.place(given[0]), ..., 0), value)
            case "fill":
                self.put(self.place(given[0]), self.array.fill_value)
            case "grow":
                self.resize(*given)
            case "shrink":
                self.resize(given[0], -given[1])
            case "cut and append":
                self.resize(0, -given[0])
                self.apply("append", *given[1:])
            case "delete":
                if self.indexed:
                    deleted = self.deleted
                    ids = np.arange(deleted.size).reshape(deleted.shape)[self.place(given[0])]
                    count = self.array.vec.delete(ids.ravel())
                    assert count == np.count_nonzero(~deleted[self.place(given[0])])
                    places = np.unravel_index(ids.ravel(), deleted.shape)
                    self.hidden.update(zip(*(place.tolist() for place in places), strict=True))
            case "optimize":
                if self.indexed and self.finite().any():
                    self.array.vec.optimize()
            case "build":
                if self.finite().any():
                    self.array.vec.build_index(metric=self.case.metric, nlist=3)
                    self.indexed = True
            case "drop":
                assert self.array.vec.drop_index() is self.indexed
                self.indexed = False
                self.hidden.clear()
            case "erase chunk":
                prefix = "emb/c/"
                keys = sorted(asyncio.run(self.keys(prefix)))
                if keys:
                    asyncio.run(self.root.store.delete(keys[given[0] % len(keys)]))
                    self.data = np.asarray(self.array[...])
            case "reopen":
                if given[0] == "pickle":
                    self.array = pickle.loads(pickle.dumps(self.array))
                else:
                    self.root = self.open(given[0])
                    self.array = self.root["emb"]
            case "make anew":
                self.array = self.make(self.case.fill + given[0])
                self.data = np.full(self.array.shape, self.array.fill_value, dtype=self.case.dtype)
                self.hidden, self.indexed = set(), False

    def finite(self):
        return np.isfinite(self.data.astype("f8")).all(axis=-1)

    async def keys(self, prefix):
        return [key async for key in self.root.store.list_prefix(prefix)]

    def step(self, kind, *given) -> None:
        before = self.data.copy(), set(self.hidden), self.indexed
        if kind in ("transaction", "discarded"):
            try:
                with zarrvec.transaction(self.root):
                    for operation in given[0]:
                        self.apply(*operation)
                        self.check()
                    if kind == "discarded":
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                self.restore(before)
        elif kind == "revert":
            number = zarrvec.history(self.root)[0].number
            self.apply("append", 9, 7)
            self.apply("set", (3, 9), slice(None), 8)
            zarrvec.revert(self.root, number)
            self.restore(before)
        elif kind == "go back":
            number, then = self.past[-min(given[0], len(self.past))]
            zarrvec.revert(self.root, number)
            self.restore(then)
        elif kind == "copy":
            copied = f"{self.url}.copy"
            source, target = (
                open_source(f"zarrvec://{self.url}", {}),
                zarrvec.open_store(f"zarrvec://{copied}"),
            )
            copy_store(source, target.repository, "", message="copy")
            self.url, self.past = copied, []
            self.restore(before)
        else:
            self.apply(kind, *given)
        self.remember()

    def remember(self):
        if self.case.store in OURS:
            state = self.data.copy(), set(self.hidden), self.indexed
            self.past.append((zarrvec.history(self.root, limit=1)[0].number, state))

    def restore(self, before):
        self.data, self.hidden, self.indexed = before[0].copy(), set(before[1]), before[2]
        self.root = self.open(self.case.store)
        self.array = self.root["emb"]

    def check(self) -> None:
        rows = self.data.reshape(-1, DIMENSIONS).astype("f8")
        there = self.finite().reshape(-1) & ~self.deleted.reshape(-1)
        queries = np.random.default_rng(5).standard_normal((3, DIMENSIONS)) * 10
        if there.any():
            queries[0] = rows[np.flatnonzero(there)[-1]]
        exact = self.distances(rows, queries)
        exact[:, ~there] = np.inf
        k = 6
        tolerance = self.tolerance(rows[there], queries)
        by_codes: dict[str, Any] = {"nprobe": ALL}
        for options in (by_codes, {**by_codes, "rerank": True}, {"exact": True}):
            hits = self.array.vec.search(queries, k, metric=self.case.metric, **options)
            assert hits.ids.shape == (3, min(k, np.count_nonzero(there)))
            assert all(len(set(ids)) == len(ids) for ids in hits.ids.tolist())
            assert there[hits.ids].all()
            true = np.take_along_axis(exact, hits.ids, axis=1)
            rounding = 1e-5 * (1 + abs(true))
            assert (abs(hits.distances - true) <= (tolerance if options is by_codes else rounding)).all()
            best = np.sort(exact, axis=1)[:, : hits.ids.shape[1]]
            assert (true - best <= (rounding if "exact" in options else 2 * tolerance)).all()

    def distances(self, rows, queries):
        if self.case.metric == "cosine":
            queries = unit_rows(queries)[0]
        count = len(rows)
        row, query = np.tile(np.arange(count), 3), np.repeat(np.arange(3), count)
        return pair_distances(self.case.metric, rows, row, queries, query).reshape(3, count)

    def tolerance(self, rows, queries):
        """How far the codes may be off: residuals are no longer than all that was ever stored."""
        span = 250.0 if np.dtype(self.case.dtype).kind in "iu" else 10.0
        length = np.linalg.norm(queries, axis=1)[:, None]
        if self.case.metric == "cosine":
            span, length = 2.0, 1.0
        error = span * np.sqrt(DIMENSIONS) / 127
        if self.case.metric != "l2":
            return length * error + 1e-5
        away = length + np.linalg.norm(rows, axis=1).max(initial=0)
        return 2 * away * error + error**2


@given(cases(OURS), on_ours)
@settings(max_examples=15)
def test_on_a_zarrvec_store_nothing_is_stale(case, steps):
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(case, folder)
        machine.check()
        for step in steps:
            machine.step(*step)
            machine.check()


@given(cases(PLAIN), elsewhere)
@settings(max_examples=6)
def test_elsewhere_no_row_that_came_later_is_missed(case, steps):
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(case, folder)
        machine.check()
        for step in steps:
            machine.step(*step)
            machine.check()
