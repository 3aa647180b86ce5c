"""What does the model say beyond what was counted, and where do model or code break down?"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.scaling import chunks, model
from benchmarks.scaling.compare import index_of
from benchmarks.scaling.model import Store
from benchmarks.scaling.model_index import KEY_BYTES, TABLES, Index
from benchmarks.scaling.work import Work
from zarrvec.engine.pruning import KEEP_NEWEST, KEEP_SECONDS, LOOK_AT
from zarrvec.format.commit import ROOT_INLINE_BYTES
from zarrvec.format.envelope import MAX_ROOT_BYTES
from zarrvec.layout.fold import INDEX_BYTES
from zarrvec.search.groups import ROOT_BYTES

SIZES = tuple(10**power for power in range(4, 10))
WIDTHS = (100, 384, 768)
WARM_UP, COMMITS = 500, 1_000
BUDGET_METADATA_BYTES = 64 << 10
MEMORY_BYTES = 16e9
"""Of the machine that is asked for as an example."""


def of_chunks() -> Iterator[str]:
    stores = {size: Store(chunks=size) for size in SIZES}
    yield from _table("open cold, read a chunk", {n: store.open_and_read() for n, store in stores.items()})
    yield from _table(
        "read 200 adjacent chunks, warm",
        {n: store.read_adjacent(chunks.BURST) for n, store in stores.items()},
    )
    many, single = {}, {}
    for n, store in stores.items():
        writer = store.writer()
        model.bursts(writer, WARM_UP, chunks.BURST)
        many[n] = model.bursts(writer, COMMITS, chunks.BURST)
        single[n] = lasting_singles(store)
    yield f"Of commits, means of {COMMITS:,} after {WARM_UP}, with what dropping old ones costs in the background."
    yield ""
    yield from _table("write 200 adjacent chunks", {n: _lasting(one) for n, one in many.items()}, many)
    yield from _table("write one chunk somewhere", {n: _lasting(one) for n, one in single.items()}, single)
    yield from _table(
        "list all keys, pages side by side", {n: store.list_all() for n, store in stores.items()}
    )
    yield from _table(
        "list all keys, each page written by another commit",
        {n: s.list_all_scattered() for n, s in stores.items()},
    )
    yield from _table("verify", {n: store.verify() for n, store in stores.items()}, each=True)


def lasting_singles(store: Store) -> model.Written:
    """Return the means of commits of one chunk when many were made before."""
    writer = store.writer()
    writer.fill(chunks.prefilled(store.chunks))
    model.singles(writer, WARM_UP)
    return model.singles(writer, COMMITS)


def _lasting(written: model.Written) -> Work:
    return written.work + model.pruning(written.commit_bytes)


def _table(
    name: str,
    works: Mapping[int, Work],
    written: Mapping[int, model.Written] | None = None,
    *,
    each: bool = False,
) -> Iterator[str]:
    from benchmarks.scaling.report import amount, table

    heads = [
        name,
        "requests",
        "rounds",
        "bytes read",
        "bytes written",
        "seconds",
        "$" if each else "$ for 10^6",
    ]
    heads += ["metadata", "pages written", "garbage"] if written else []
    yield from table(
        heads,
        (
            [
                _power(n), amount(work.requests), amount(work.rounds), amount(work.read_bytes), amount(work.written_bytes),
                amount(work.seconds), f"{work.dollars * (1 if each else 1e6):.3g}",
                *([] if written is None else [
                    amount(written[n].metadata_bytes), f"{written[n].folds:.2f}", amount(written[n].garbage_bytes)
                ]),
            ]
            for n, work in works.items()
        ),
    )  # fmt: skip
    yield ""


def _power(number: int) -> str:
    return f"10^{round(math.log10(number))}"


def probed(results: Mapping[str, Any]) -> tuple[float, float, int]:
    """Return by which power of the rows the lists probed grow, and the lists probed of the real embeddings, and their rows."""
    counted = [found for name, found in results.get("vectors", {}).items() if found["nlist_given"] is None]
    synthetic = [found for found in counted if found["width"] == 64]
    growth = 0.0
    if len(synthetic) > 1:
        rows = np.log([found["rows"] for found in synthetic])
        growth = float(np.polyfit(rows, np.log([found["nprobe"] for found in synthetic]), 1)[0])
    real = results.get("vectors", {}).get("minilm", counted[0] if counted else None)
    return (growth, float(real["nprobe"]), int(real["rows"])) if real else (growth, 16.0, 26_000)


def of_vectors(results: Mapping[str, Any]) -> Iterator[str]:
    from benchmarks.scaling.report import amount, table

    growth, nprobe, at = probed(results)
    yield f"Lists probed for recall 0.95: {nprobe:.0f} of {at:,} real embeddings, growing as n^{growth:.2f}, as counted of the synthetic rows from 10^4 to"
    yield "10^6. Others need more or fewer: this is the least certain part. Rows are float32 in chunks of 1 MiB; `build_index` has its default"
    yield "memory of 2 GiB. Of a cold search the array is open; an append is one of 5,000 rows to an open index; $ are of 10^6 searches and of one build."
    for width in WIDTHS:
        yield from ("", f"### d = {width}", "")
        indexes = {n: Index(rows=n, width=width) for n in SIZES}
        lists = {n: min(index.lists, nprobe * (n / at) ** growth) for n, index in indexes.items()}
        cold = {n: index.search_cold(lists[n]) for n, index in indexes.items()}
        warm = {n: index.search_warm(lists[n]) for n, index in indexes.items()}
        yield from table(
            ["rows", "lists", "rows a list", "probed", "root", "cold: requests", "rounds", "bytes", "s", "$", "warm: requests", "bytes", "s"],
            (
                [
                    _power(n), f"{index.lists:,}", f"{index.rows_in_list:,.0f}", f"{lists[n]:.0f}", amount(index.root_bytes),
                    f"{cold[n].requests:.1f}", f"{cold[n].rounds:.0f}", amount(cold[n].read_bytes), f"{cold[n].seconds:.2f}",
                    f"{cold[n].dollars * 1e6:.2f}", f"{warm[n].requests:.1f}", amount(warm[n].read_bytes), f"{warm[n].seconds:.2f}",
                ]
                for n, index in indexes.items()
            ),
        )  # fmt: skip
        yield ""
        appends = {n: index.append() for n, index in indexes.items()}
        builds = {n: index.build() for n, index in indexes.items()}
        yield from table(
            ["rows", "append: requests", "rounds", "bytes read", "bytes written", "build: GET", "PUT", "bytes read", "bytes written", "memory", "temporary", "$", "open index in memory"],
            (
                [
                    _power(n), f"{appends[n].requests:.0f}", f"{appends[n].rounds:.0f}", amount(appends[n].read_bytes),
                    amount(appends[n].written_bytes), amount(builds[n].gets), amount(builds[n].puts), amount(builds[n].read_bytes),
                    amount(builds[n].written_bytes), amount(index.build_memory_bytes), amount(index.temporary_bytes),
                    f"{builds[n].dollars:.2g}", amount(index.resident_bytes),
                ]
                for n, index in indexes.items()
            ),
        )  # fmt: skip


def limits(results: Mapping[str, Any]) -> Iterator[str]:
    """Say where budgets of the design are left, and where something stops."""
    yield from _store_limits(results)
    yield from _index_limits(results)


def _store_limits(results: Mapping[str, Any]) -> Iterator[str]:
    from benchmarks.scaling.report import amount

    million = Store(chunks=10**6)
    aged = (ROOT_INLINE_BYTES - million.root_bytes) // model.ROOT_GROWTH_BYTES
    counted = [
        f"{name}: {found['open_aged']['requests']:.0f} requests with {found['open_aged']['aged_packs']:,} packs"
        for name, found in results.get("chunks", {}).items()
        if not found["open_aged"]["aged_root_is_inline"]
    ]
    yield (
        f"- **Opening, budget 4 requests and 4 rounds at 10^6 chunks, is 5 and 5 when the root is longer than {ROOT_INLINE_BYTES >> 10} KiB.** That is above "
        f"{_least(lambda n: not Store(chunks=n).root_is_inline):,} chunks with 3,000 in a pack, above {_least(lambda n: not Store(chunks=n, per_pack=200).root_is_inline):,} with 200; and at 10^6 "
        f"after some {aged:,} commits of one chunk, since each adds a pack for ever. Nothing takes packs together. Counted: {'; '.join(counted) or 'nothing'}."
    )
    largest = {
        name: found["write_singles"]["most_metadata_bytes"]
        for name, found in results.get("chunks", {}).items()
    }
    yield (
        f"- **A commit of one chunk, budget 64 KiB besides the chunk at 10^6**, writes the whole root whenever it folds a page. By the model that is more than 64 KiB above "
        f"{_least(lambda n: _folding_bytes(n) > BUDGET_METADATA_BYTES):,} chunks, and {amount(_folding_bytes(10**9))}B at 10^9, where nearly each such commit folds. "
        f"Counted, the most of {chunks.SINGLES}: {', '.join(f'{name} {amount(most)}B' for name, most in largest.items()) or 'nothing'}."
    )
    yield (
        f"- **Requests of such a commit, budget 2 at 10^6**: a fold reads the page if it is not among the {million.writer()._cached} that a process keeps (64 MiB with their keys, 160 bytes each), so a GET and a "
        f"round more for {lasting_singles(million).work.gets:.0%} of scattered commits at 10^6. Besides, a commit is read again before it is dropped: a GET each, in the background."
    )
    yield (
        f"- **A root has at most {MAX_ROOT_BYTES >> 20} MiB before compression; a commit that would make it longer fails, and lands nothing.** A store reaches that at some {model.most_packs():,} packs, whatever is in them, as after so many commits that each wrote a "
        f"pack. With 3,000 chunks in a pack 10^9 chunks take {amount(Store(chunks=10**9).root_raw_bytes)}B, with 200 {amount(Store(chunks=10**9, per_pack=200).root_raw_bytes)}B: too long above "
        f"{_least(lambda n: not Store(chunks=n, per_pack=200).is_readable):,} chunks."
    )
    for name, found in results.get("roots", {}).items():
        yield (
            f"  - root of {name} encoded here whole: {found['pages']:,} pages, {found['packs']:,} packs, {amount(found['bytes'])}B, by the model "
            f"{amount(Store(chunks=found['chunks'], per_pack=found['per_pack']).root_bytes)}B; {found['encode_seconds']:.1f} s to encode, "
            + (
                f"refused when read: {found['problem']}"
                if found["problem"]
                else f"{found['decode_seconds']:.1f} s to decode, at every cold open."
            )
        )
    for found in results.get("packs", {}).values():
        outcome = (
            "a chunk is found" if found["is_found"] else f"no chunk can be read any more: {found['problem']}"
        )
        yield f"  - a store in memory of {found['packs']:,} packs: commit {found['commit']} succeeded; opened anew, {outcome}"
    left = [
        f"{found['left']:,} of {found['commits']:,} at {found['rate']:g} a second"
        for found in results.get("dropping", {}).values()
    ]
    yield (
        f"- **Old automatic commits are dropped {LOOK_AT} at a look**, a look for 64 commits, so what a burst has left goes slowly. Left by the "
        f"engine's pruner, those younger than {KEEP_SECONDS / 60:.0f} minutes and the newest {KEEP_NEWEST} among them: {', '.join(left) or 'not counted'}. Each look lists the whole branch, a LIST for 1,000 commits."
    )
    yield (
        f"- **Opening lists one key, but the response has up to {model.LISTED_AT_ONCE:,}**: obstore has no way to ask for fewer. A branch of so many commits, of transactions say, makes each cold open "
        f"{amount(model.LISTED_AT_ONCE * model.LISTED_BYTES)}B longer. The request is one, as budgeted."
    )
    large = Store(chunks=10**9).verify()
    yield (
        f"- **verify reads all that a version reaches**: at 10^9 chunks {amount(large.requests)} requests and {amount(large.read_bytes)}B, by the model ${large.dollars:.2f} and {amount(large.seconds)} s, of one process."
    )
    yield (
        f"- **Listing all keys** waits for {model._PAGES_AT_ONCE} pages at a time: {Store(chunks=10**9).list_all().rounds:,.0f} rounds at 10^9. A folder is listed from the root alone."
    )


def _folding_bytes(count: int) -> float:
    store = Store(chunks=count)
    return store.root_bytes + store.page_bytes + 14_000


def _least(is_beyond: Any) -> int:
    """Return the least number of chunks, to two digits, beyond which something holds."""
    for power in range(3, 11):
        for tenth in range(10, 100, 5):
            size: int = tenth * 10 ** (power - 1)
            if is_beyond(size):
                return size
    return 10**11


def _index_limits(results: Mapping[str, Any]) -> Iterator[str]:
    from benchmarks.scaling.report import amount

    capped = {
        d: _least(lambda n, d=d: Index(rows=n, width=d).lists < Index(rows=n, width=d).wanted_lists)
        for d in WIDTHS
    }
    thin = {
        d: _least(
            lambda n, d=d: (
                Index(rows=n, width=d).sample_rows < 40 * Index(rows=n, width=d).lists and n > 10**5
            )
        )
        for d in WIDTHS
    }
    large = {d: Index(rows=10**9, width=d) for d in WIDTHS}
    yield (
        "- **Lists are made of a sample that half of `memory_bytes` holds**, 1 GiB by default: fewer than 40 rows for each list above "
        f"{_by_width(thin)} rows, and above {_by_width(capped)} fewer lists than one for 100 rows. At 10^9 a list has "
        + ", ".join(f"{index.rows_in_list:,.0f} rows at d = {d}" for d, index in large.items())
        + f", so that a search reads {amount(large[384].list_bytes)}B a list at d = 384, not {amount(Index(rows=10**6, width=384).list_bytes)}B. `memory_bytes` must grow with n: 10^9 rows of 384 need "
        f"{amount(2 * 10**7 * 4 * 384)}B for one sample row a list."
    )
    memory = {
        d: _least(lambda n, d=d: Index(rows=n, width=d).build_memory_bytes > MEMORY_BYTES) for d in WIDTHS
    }
    yield (
        f"- **A build in one process keeps numbers of each row in memory whatever `memory_bytes` says** (with a dask client, decision 0014, workers have parts of them): 16 bytes a row and 12 an entry, and 8 more while they are sorted. By the model {amount(large[384].build_memory_bytes)}B at "
        f"10^9 x 384, more than 16 GB above {_by_width(memory)} rows; and a temporary file of {amount(large[384].temporary_bytes)}B."
    )
    grouped = {d: _least(lambda n, d=d: bool(Index(rows=n, width=d).groups)) for d in WIDTHS}
    many = INDEX_BYTES // (TABLES * KEY_BYTES)
    yield (
        f"- **A cold search, budget 2 rounds up to 10^6 vectors and 3 above, takes one more where a store has more than some {many} indexes**: the keys of their tables stay in the commit up to {INDEX_BYTES >> 10} KiB together. "
        f"Lists are in groups above {_by_width(grouped)} rows. Counted after others' commits have folded what could be: {_rounds(results, 'cold_folded', groups=False)}; in groups {_rounds(results, 'cold_folded', groups=True)}."
    )
    warm = [
        f"{name} {found['warm']['rounds']:.1f} rounds, {found['warm']['requests']:.1f} requests"
        for name, found in results.get("vectors", {}).items()
        if found["index"]["groups"]
    ]
    yield (
        f"- **A later search, budget 1 round, takes 2 where lists are in groups**, as long as it meets groups that nobody has looked at (decision 0007). Counted, the mean of 20: {', '.join(warm) or 'nothing'}."
    )
    yield (
        f"- **An append needs all centroids**: {amount(Index(rows=10**8, width=384).table_bytes)}B at 10^8 x 384, which don't fit into the cache of roots (512 MiB, decoded), so every append reads them again."
        if not Index(rows=10**8, width=384).is_kept_whole
        else "- An append needs all centroids, which the cache of roots holds at 10^8 x 384."
    )
    beyond = [d for d in WIDTHS if Index(rows=10**9, width=d, memory_bytes=1 << 50).root_bytes > ROOT_BYTES]
    with_all = Index(rows=10**9, width=384, memory_bytes=1 << 50)
    yield (
        f"- **Groups are one level**: with one list for 100 rows the table of 10^9 x 384 is {amount(with_all.table_bytes)}B, its groups {amount(with_all.root_bytes)}B"
        + (f", longer than 8 MiB at d = {', '.join(map(str, beyond))}" if beyond else "")
        + f"; coverage is {amount(with_all.coverage_bytes)}B and the manifest's pages of the array's chunks are read besides."
    )
    slow = [found for found in results.get("vectors", {}).values() if found["rows"] >= 10**6]
    for found in slow:
        index = index_of(found)
        yield f"- Built here: {found['rows']:,} x {found['width']} in {found['build']['seconds']:.0f} s ({index.lists:,} lists), one process of 2 shared cores."


def _rounds(results: Mapping[str, Any], search: str, *, groups: bool) -> str:
    """List the rounds of a search that were counted, with lists in groups or without, of 10^5 rows and more."""
    counted = [
        f"{name} {found[search]['rounds']:.1f}"
        for name, found in results.get("vectors", {}).items()
        if search in found and bool(found["index"]["groups"]) is groups and found["rows"] >= 10**5
    ]
    return ", ".join(counted) or "nothing"


def _by_width(sizes: Mapping[int, int]) -> str:
    from benchmarks.scaling.report import amount

    return (
        " / ".join(amount(size) if size < 10**11 else "never" for size in sizes.values())
        + " (d = "
        + " / ".join(map(str, sizes))
        + ")"
    )
