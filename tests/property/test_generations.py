"""Does the generation of a unit change exactly when it is written, through folds, clears, transactions and resizes?"""

import asyncio
import tempfile
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import zarrvec
from zarrvec.engine import committer
from zarrvec.format import manifest
from zarrvec.layout import fold
from zarrvec.search.places import Snapshot
from zarrvec.search.units import STAGED

ROWS, WIDTH, CHUNK = 12, 6, (2, 3)


@pytest.fixture(autouse=True)
def _small_thresholds(monkeypatch):
    """Fold and split pages all the time."""
    monkeypatch.setattr(fold, "DELTA_BYTES", 300)
    monkeypatch.setattr(fold, "DELTA_LIMIT_BYTES", 900)
    monkeypatch.setattr(committer, "DELTA_LIMIT_BYTES", 900)
    monkeypatch.setattr(fold, "INLINE_BYTES", 16)
    monkeypatch.setattr(manifest, "PAGE_ENTRIES", 5)


rows = st.tuples(st.integers(0, 20), st.integers(1, 6))
columns = st.sampled_from([slice(None), slice(0, 3), slice(4, 6)])
simple = st.one_of(
    st.tuples(st.just("set"), rows, columns, st.integers(0, 2)),
    st.tuples(st.just("delete"), st.integers(0, 9), st.integers(0, 1)),
    st.tuples(st.just("resize"), st.integers(1, 20)),
    st.tuples(st.just("append"), st.integers(1, 5)),
    st.tuples(st.just("clear"), st.sampled_from(["emb/c", "emb/c/1", "emb/c/10"])),
    st.tuples(st.just("make anew")),
    st.tuples(st.just("write elsewhere"), st.integers(0, 40)),
)
operations = st.one_of(
    simple, simple, simple, st.tuples(st.just("transaction"), st.lists(simple, max_size=4))
)


class Machine:
    def __init__(self, folder):
        self.root = zarr.open_group(f"zarrvec://{folder}/data.zarr", mode="a")
        self.other = self.root.create_array("emb.vec", shape=(41, 40), chunks=(1, 40), dtype="u1")
        self.make()

    def make(self):
        self.array = self.root.create_array(
            "emb", shape=(ROWS, WIDTH), chunks=CHUNK, dtype="f8", fill_value=0, overwrite=True
        )

    def keys(self):
        return {(row, column): f"emb/c/{row}/{column}" for row in range(12) for column in range(2)}

    def apply(self, kind, *given):
        """Do it; return the positions of the units that it may write."""
        positions = self.keys()
        if kind == "set":
            (start, count), columns, value = given
            stop = min(start + count, self.array.shape[0])
            if start >= stop:
                return set()
            self.array[start:stop, columns] = value
            first, last, _ = columns.indices(WIDTH)
            return {
                (r, c) for r in range(start // 2, -(-stop // 2)) for c in range(first // 3, -(-last // 3))
            }
        if kind == "delete":
            asyncio.run(self.root.store.delete(positions[given]))
            return {given}
        if kind == "resize":
            self.array.resize((given[0], WIDTH))
            return {(r, c) for r, c in positions if r >= -(-given[0] // 2)}
        if kind == "append":
            before = self.array.shape[0]
            if before > 18:
                return set()
            zarrvec.append(self.array, np.ones((given[0], WIDTH)))
            return {(r, c) for r, c in positions if before // 2 <= r < -(-(before + given[0]) // 2)}
        if kind == "clear":
            asyncio.run(self.root.store.delete_dir(given[0]))
            return {at for at, key in positions.items() if key.startswith(given[0] + "/")}
        if kind == "make anew":
            self.make()
            return set(positions)
        if kind == "write elsewhere":
            self.other[given[0]] = np.random.default_rng(given[0]).integers(1, 255, 40)
            return set()
        written = set()
        with zarrvec.transaction(self.root):
            for operation in given[0]:
                written |= self.apply(*operation)
                self.check(self.expected(written, STAGED))
        return written

    def expected(self, written, number):
        """Return what it was, but for what was written: the number if there is a value, else 0."""
        there = set(asyncio.run(self.list()))
        for at in written:
            self.known[at] = number if self.keys()[at] in there else 0
        return self.known

    async def list(self):
        return [key async for key in self.root.store.list_prefix("emb/")]

    def check(self, known):
        snapshot = Snapshot.of(self.array)
        grid = snapshot.units().grid
        assert grid == (-(-self.array.shape[0] // 2), 2)
        generations = snapshot.generations()
        assert generations.reshape(grid).tolist() == [[known[r, c] for c in range(2)] for r in range(grid[0])]
        return snapshot, generations

    def run(self, steps):
        self.known = dict.fromkeys(self.keys(), 0)
        before, since = self.check(self.known)
        for step in steps:
            written = self.apply(*step)
            number = Snapshot.of(self.array).version
            after, generations = self.check(self.expected(written, number))
            grid = after.units().grid
            changed = after.changed(since, before.units().grid).reshape(grid)
            may_be = {at for at in written if at[0] < grid[0]}
            assert set(zip(*map(np.ndarray.tolist, changed.nonzero()), strict=True)) <= may_be
            before, since = after, generations


@given(st.lists(operations, max_size=15))
@settings(max_examples=40)
def test_generations_change_exactly_for_what_is_written(steps):
    with tempfile.TemporaryDirectory() as folder:
        Machine(folder).run(steps)


def test_after_many_commits():
    with tempfile.TemporaryDirectory() as folder:
        steps: list[Any] = [
            ("set", (number % 12, 1 + number % 3), slice(None), 1 + number % 2) for number in range(80)
        ]
        steps[40:40] = [("clear", "emb/c/1"), ("resize", 5), ("append", 5), ("make anew",)]
        Machine(folder).run(steps)
