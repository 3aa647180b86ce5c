"""Do the decisions in `zarrvec.layout` keep their invariants, and does a folded delta mean what it meant before?"""

from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from zarrvec.format.keys import is_below, sort_key
from zarrvec.format.manifest import Root, split_pages
from zarrvec.layout.coalesce import Range, coalesce, split_long
from zarrvec.layout.delta import Delta
from zarrvec.layout.fold import (
    DELTA_LIMIT_BYTES,
    INDEX_BYTES,
    METADATA_BYTES,
    delta_bytes,
    is_due,
    plan_fold,
    rebase_folded,
    rewrite,
)
from zarrvec.layout.packing import split_values
from zarrvec.types import Clear, Entry, Location, PageRef

ranges = st.lists(
    st.builds(Range, st.sampled_from([b"p", b"q"]), st.integers(0, 400), st.integers(0, 60)), max_size=30
)


@given(ranges, st.integers(0, 60), st.integers(1, 100))
@example([Range(b"p", 0, 0), Range(b"p", 0, 0)], 0, 1)
@example([Range(b"p", 0, 3), Range(b"p", 1, 0), Range(b"p", 2, 0)], 0, 2)
def test_coalesce_brings_every_range_once(some, gap, size):
    reads = coalesce(some, gap=gap, size=size)
    assert sorted(index for read in reads for index in read.wanted) == list(range(len(some)))
    for read in reads:
        inside = [some[index] for index in read.wanted]
        assert read.start == min(wanted.start for wanted in inside)
        assert read.start + read.length == max(wanted.start + wanted.length for wanted in inside)
        assert {wanted.pack for wanted in inside} == {read.pack}
        assert read.length <= size or len(inside) == 1 or _one_covers(inside)
        end = read.start
        for wanted in sorted(inside):
            assert wanted.start - end <= gap
            end = max(end, wanted.start + wanted.length)


def _one_covers(inside):
    start = min(wanted.start for wanted in inside)
    end = max(wanted.start + wanted.length for wanted in inside)
    return any(wanted.start == start and wanted.start + wanted.length == end for wanted in inside)


@given(st.integers(0, 40), st.integers(1, 3), st.integers(0, 9))
def test_coalesce_reads_neighbours_by_one_request(count, length, gap):
    some = [Range(b"p", index * (length + gap), length) for index in range(count)]
    assert len(coalesce(some, gap=gap, size=10_000)) == min(count, 1)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(100, 10**6))
def test_split_long_is_a_partition(start, length, size):
    parts = split_long(start, length, size=size)
    assert parts[0][0] == start
    assert sum(part for _, part in parts) == length
    assert all(a + n == b for (a, n), (b, _) in pairwise(parts))
    assert all(part <= size for _, part in parts)


@given(st.lists(st.integers(0, 100), max_size=50), st.integers(1, 200))
def test_split_values_is_a_partition_within_the_target(lengths, pack_bytes):
    runs = split_values(lengths, pack_bytes)
    assert [row for start, stop in runs for row in range(start, stop)] == list(range(len(lengths)))
    for start, stop in runs:
        assert stop > start
        assert stop - start == 1 or sum(lengths[start:stop]) + 4 * (stop - start) <= pack_bytes
    for (start, stop), (_, after) in pairwise(runs):
        assert after > stop
        assert sum(lengths[start : stop + 1]) + 4 * (stop + 1 - start) > pack_bytes


KEYS = [
    f"{folder}{name}" for folder in ("", "a/", "a/b/", "ab/") for name in ("zarr.json", "c/0", "c/1", "c/10")
]
PREFIXES = ["", "a", "a/b", "ab", "a/c", "c", "x"]
changes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.binary(min_size=1, max_size=3)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS), st.none()),
        st.tuples(st.just("clear"), st.sampled_from(PREFIXES), st.none()),
    ),
    max_size=12,
)


def change(delta, model, steps):
    for what, where, data in steps:
        if what == "clear":
            delta.clear(where, 0)
            for key in [key for key in model if is_below(key, where)]:
                model[key] = None
        else:
            delta.entries[where] = Entry.inline(data) if what == "put" else Entry(0)
            model[where] = data


@given(st.lists(changes, min_size=1, max_size=5))
def test_delta_is_a_dict_of_changes(commits):
    """What a delta knows is what a dict would know, whoever was put on top of whom."""
    model = dict.fromkeys(KEYS, b"below")
    total = Delta()
    for number, steps in enumerate(commits, 1):
        newer = Delta()
        change(newer, model, steps)
        before = total.copy()
        total = total.updated(newer, number)
        assert {key: before.find(key) for key in KEYS} == {key: before.copy().find(key) for key in KEYS}
    for key in KEYS:
        entry = total.find(key)
        found = b"below" if entry is None else None if entry.is_deleted else entry.data
        assert found == model[key]
        assert entry is None or 1 <= entry.generation <= len(commits)
    for index, clear in enumerate(total.clears):
        others = total.clears[:index]
        assert not any(
            is_below(other.prefix, clear.prefix) or other.prefix == clear.prefix for other in others
        )
    assert [key for key, _ in total.sorted_rows()] == sorted(total.entries, key=sort_key)


# -- folding --------------------------------------------------------------------------------------------------------


class Manifest:
    """A version without storage: pages as lists of rows, assembled as ``specs/commit.md``, "Folding", says."""

    def __init__(self, rows, page_size):
        self.delta = Delta()
        self.pages = [rows[at : at + page_size] for at in range(0, len(rows), page_size)]
        self.number = 1

    @property
    def root(self):
        return Root([
            PageRef(rows[0][0], rows[-1][0], Location(b"p" * 12, 0, 0), len(rows), 1, ()) for rows in self.pages
        ])  # fmt: skip

    def content(self):
        found: dict[str, bytes | None] = {}
        for number, (rows, page) in enumerate(zip(self.pages, self.root.pages, strict=True)):
            assert [sort_key(key) for key, _ in rows] == sorted(sort_key(key) for key, _ in rows)
            assert self.root.page_of(page.first) == self.root.page_of(page.last) == number
            found |= {key: entry.data for key, entry in rows if self.delta.find(key) is None}
        return found | {key: entry.data for key, entry in self.delta.entries.items() if not entry.is_deleted}

    def fold(self, delta, plan):
        root = self.root
        added: list[Any] = []
        for fold in plan.folds:
            merged = rewrite(self.pages[fold.page] if fold.page is not None else [], fold, delta)
            added.extend((fold.position, page) for page in split_pages(merged))
        gone = {fold.page for fold in plan.folds} | plan.dropped
        pages: list[Any] = []
        for position in range(len(root.pages) + 1):
            pages.extend(page for where, page in added if where == position)
            if position < len(root.pages) and position not in gone:
                pages.append(self.pages[position])
        return pages

    def commit(self, newer):
        self.number += 1
        whole = self.delta.updated(newer, self.number)
        plan = plan_fold(self.root, whole, list(newer.entries))
        if plan is None:
            assert not is_due(whole)
            self.delta = whole
            return
        self.pages = self.fold(whole, plan)
        self.delta = Delta({key: entry for key, entry in whole.entries.items() if key not in plan.keys})
        assert self.root.is_ordered()
        assert delta_bytes(self.delta) <= DELTA_LIMIT_BYTES
        metadata = {key for key in whole.entries if key.endswith("zarr.json")}
        index = {key for key, entry in whole.entries.items() if ".vec/" in key and not entry.is_deleted}
        index -= metadata
        tables = {key for key in index if "/entries/" not in key}
        for keys, limit in ((metadata, METADATA_BYTES), (index, INDEX_BYTES), (tables, INDEX_BYTES)):
            if sum(len(key) + 24 + len(whole.entries[key].data or b"") for key in keys) <= limit:
                assert not plan.keys & keys


def key_of(number):
    if number % 17 == 0:
        return f"g{number % 3}/a{number}/zarr.json"
    if number % 5 == 0:
        return f"g{number % 3}/a.vec/{number % 7}/{'entries' if number % 2 else 'lists'}/c/{number}"
    return f"g{number % 3}/a{number % 2}/c/{number}"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 900), st.integers(1, 250)),
        st.tuples(st.just("delete"), st.integers(0, 900), st.integers(1, 250)),
        st.tuples(
            st.just("clear"),
            st.sampled_from(["g0", "g1", "g1/a0", "g2/a1/c", "g2/a17", "", "none"]),
            st.none(),
        ),
    ),
    min_size=1,
    max_size=4,
)


def apply(delta, model, commit, stamp):
    for what, where, count in commit:
        if what == "clear":
            delta.clear(where, 0)
            for key in [key for key in model if is_below(key, where)]:
                del model[key]
            continue
        for number in range(where, where + count):
            key = key_of(number)
            if what == "put":
                data = stamp * (40 + number % 300)
                delta.entries[key] = Entry.inline(data)
                model[key] = data
            else:
                delta.entries[key] = Entry(0)
                model.pop(key, None)


def manifest_of(count, page_size):
    model = {key_of(number): b"old" for number in range(count)}
    rows = sorted(
        ((key, Entry(1, 3, data=data)) for key, data in model.items()), key=lambda row: sort_key(row[0])
    )
    return Manifest(rows, page_size), model


@settings(max_examples=40)
@given(
    st.sampled_from([0, 1, 300, 900]), st.sampled_from([7, 50, 4096]), st.lists(steps, min_size=1, max_size=7)
)
def test_folding_changes_nothing(count, page_size, commits):
    manifest, model = manifest_of(count, page_size)
    for number, commit in enumerate(commits):
        newer = Delta()
        apply(newer, model, commit, b"%d" % (number % 10))
        manifest.commit(newer)
        assert manifest.content() == model


@settings(max_examples=40)
@given(
    st.sampled_from([0, 300, 900]),
    st.sampled_from([7, 4096]),
    st.lists(steps, max_size=2),
    steps,
    steps.map(lambda commit: [step for step in commit if step[0] != "clear"]),
)
def test_a_lost_race_keeps_the_pages(count, page_size, before, mine, theirs):
    """My pages, folded on top of n, with the delta made anew on top of n + 1, say: theirs first, then mine."""
    manifest, model = manifest_of(count, page_size)
    for number, commit in enumerate(before):
        newer = Delta()
        apply(newer, model, commit, b"%d" % number)
        manifest.commit(newer)
    own = Delta()
    apply(own, {}, mine, b"8")
    whole = manifest.delta.updated(own, 0)
    plan = plan_fold(manifest.root, whole, list(own.entries))
    other = Delta()
    apply(other, model, theirs, b"9")
    theirs_delta = manifest.delta.updated(other, manifest.number + 1)
    if plan is None or plan_fold(manifest.root, theirs_delta, list(other.entries)) is not None:
        return  # nothing folded, or another root: then it is folded again
    apply(Delta(), model, mine, b"8")
    folded = {key: whole.entries[key].generation for key in plan.keys}
    manifest.pages = manifest.fold(whole, plan)
    manifest.delta = rebase_folded(theirs_delta, folded=folded, own=own, generation=manifest.number + 2)
    assert manifest.content() == model


def test_a_clear_covers_the_clears_below_it():
    delta = Delta({}, [Clear("a/b", 1), Clear("ab", 2)])
    delta.clear("a", 3)
    assert delta.clears == [Clear("ab", 2), Clear("a", 3)]
