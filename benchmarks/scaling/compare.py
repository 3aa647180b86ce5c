"""What does the model say of what was counted?

Each operation that was counted is named with what the model has for it, so that the report and a test hold the same two together.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.scaling import chunks, dropping, model
from benchmarks.scaling.model_index import Index
from benchmarks.scaling.typical import page_entries
from benchmarks.scaling.work import Work


class Pair(NamedTuple):
    """One figure of an operation."""

    operation: str
    figure: str
    model: float
    counted: float

    @property
    def error(self) -> float:
        """Return by which part of what was counted the model is off."""
        return (self.model - self.counted) / self.counted if self.counted else float(self.model != 0)


def of_work(
    operation: str, work: Work, counted: Mapping[str, float], *, rounds: bool = True
) -> Iterator[Pair]:
    yield Pair(operation, "requests", work.requests, counted["requests"])
    if rounds:
        yield Pair(operation, "rounds", work.rounds, counted["rounds"])
    for figure in ("read_bytes", "written_bytes"):
        if max(getattr(work, figure), counted[figure]) > 0:
            yield Pair(operation, figure, getattr(work, figure), counted[figure])


def of_chunks(found: Mapping[str, Any]) -> Iterator[Pair]:
    """Compare what `benchmarks.scaling.chunks` counted of a store."""
    store = model.Store(chunks=found["chunks"], per_pack=found["per_pack"])
    told = found["told"]
    made = 3 + -(-store.chunks // chunks.PIECE)
    yield Pair("manifest", "pages", store.pages, told["pages"])
    yield Pair(
        "manifest",
        "bytes of pages",
        store.chunks / page_entries(store.chunks) * store.page_bytes,
        told["page_bytes"],
    )
    yield Pair("manifest", "bytes of the root", store.root_bytes, told["root_bytes"])
    yield from of_work("open, read a chunk", store.open_and_read(made), found["open_and_read"])
    real = model.Store(chunks=store.chunks)  # what is read was written at once
    yield from of_work("read 200 chunks", real.read_adjacent(chunks.BURST), found["read_adjacent"])
    writer = store.writer()
    bursts = model.bursts(writer, chunks.BURSTS, chunks.BURST)
    yield from of_work("write 200 chunks", bursts.work, found["write_bursts"])
    yield Pair("write 200 chunks", "metadata", bursts.metadata_bytes, found["write_bursts"]["metadata_bytes"])
    writer.fill(chunks.prefilled(store.chunks))
    singles = model.singles(writer, chunks.SINGLES)
    yield from of_work("write a chunk", singles.work, found["write_singles"])
    yield Pair("write a chunk", "metadata", singles.metadata_bytes, found["write_singles"]["metadata_bytes"])
    yield Pair("write a chunk", "garbage", singles.garbage_bytes, found["write_singles"]["garbage"])
    changed = dataclasses.replace(store, singles=writer.extra_packs)
    # besides, the real chunks in the middle are in pages of their own
    yield from of_work("list all keys", changed.list_all(len(writer.rewritten) + 1), found["list_all"])
    yield Pair("list a folder", "requests", 0, found["list_folder"]["requests"])
    single = chunks.prefilled(store.chunks) + chunks.SINGLES + min(chunks.AGED, store.chunks // 4)
    aged = dataclasses.replace(store, singles=single)
    yield Pair(
        "after 1,500 commits", "bytes of the root", aged.root_bytes, found["open_aged"]["aged_root_bytes"]
    )
    versions = made + chunks.BURSTS + chunks.SINGLES + 2
    yield from of_work(
        "after 1,500 commits: open, read a chunk", aged.open_and_read(versions), found["open_aged"]
    )


def of_verify(found: Mapping[str, Any]) -> Iterator[Pair]:
    store = model.Store(chunks=found["chunks"])
    yield from of_work("verify", store.verify(versions=3), found["verify"], rounds=False)


def of_dropping(found: Mapping[str, Any]) -> Iterator[Pair]:
    yield Pair(
        f"{found['commits']:,} commits",
        "left",
        dropping.kept(found["rate"], int(found["commits"])),
        found["left"],
    )


def index_of(found: Mapping[str, Any]) -> Index:
    return Index(rows=found["rows"], width=found["width"], nlist=found["nlist_given"])


def of_vectors(found: Mapping[str, Any]) -> Iterator[Pair]:
    """Compare what `benchmarks.scaling.vectors` counted of an index."""
    index, told, build = index_of(found), found["index"], found["build"]
    yield Pair("index", "lists", index.lists, told["lists"])
    yield Pair("index", "entries", index.entries, told["entries"])
    if told["groups"]:
        yield Pair("index", "groups", index.groups, told["groups"])
    yield from of_work("build", index.build(), build, rounds=False)
    yield Pair("build", "memory", index.build_memory_bytes, build["memory_bytes"])
    if max(index.temporary_bytes, build["temporary_bytes"]) > 16 << 20:
        yield Pair("build", "temporary", index.temporary_bytes, build["temporary_bytes"])
    seen = told["seen"] or 1.0
    yield from of_work("search, cold", index.search_cold(found["nprobe"], seen), found["cold"])
    yield from of_work("search, warm", index.search_warm(found["nprobe"], seen), found["warm"])
    if "cold_folded" in found:
        folded = index.search_cold(found["nprobe"], seen, folded=True)
        yield from of_work("search, cold, after a fold", folded, found["cold_folded"])
    yield from of_work("append 5,000 rows", index.append(), found["append"])
