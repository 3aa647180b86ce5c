"""What do the engine's operations cost on a store of N chunks, counted before a real S3 server?

A store of N chunks is made by commits of entries that refer to packs which are not there; what is read and written then is real.
"""

import dataclasses
import secrets
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from benchmarks.scaling.typical import CHUNK, key_of, length_of, value_of
from benchmarks.scaling.vectors import LATENCY, counted, figures, forget, options_of, url_of
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.changes import Changes
from zarrvec.engine.listing import list_entries
from zarrvec.engine.verification import verify
from zarrvec.engine.version import View
from zarrvec.faces.targets import repository_of
from zarrvec.format.table import CRC_BYTES
from zarrvec.layout.delta import Delta
from zarrvec.layout.fold import DELTA_BYTES, entry_bytes
from zarrvec.testing.proxy import RequestRecord, S3Proxy
from zarrvec.testing.s3server import S3Bucket
from zarrvec.types import PACK_ID_BYTES, Entry, PackRef

PIECE = 1_000_000
"""Chunks that one commit adds."""
REAL = 4_000
"""Chunks in the middle that are really there."""
SINGLES, BURSTS, BURST = 60, 12, 200
"""Commits that are counted: of one chunk, and of 200 adjacent ones."""
AGED = 1_000
"""Chunks that lie in packs of their own in a store that was changed chunk by chunk."""


def array_at(bucket: S3Bucket, count: int, *, mode: str = "r+", create: bool = False) -> Any:
    if not create:
        return zarr.open_array(url_of(bucket), path="x", mode=mode, storage_options=options_of(bucket))  # type: ignore[arg-type]
    root = zarr.open_group(url_of(bucket), mode="a", storage_options=options_of(bucket))
    return root.create_array("x", shape=(count, CHUNK), chunks=(1, CHUNK), dtype="u1")


def values(first: int, count: int) -> npt.NDArray[np.uint8]:
    """Return the (count, CHUNK) cells of some chunks; each takes about `length_of` its number."""
    return np.stack([value_of(number) for number in range(first, first + count)])


def fill(bucket: S3Bucket, count: int, per_pack: int) -> None:
    """Make a store of so many chunks, so many in each pack."""
    array = array_at(bucket, count, create=True)
    repository, _ = repository_of(array)

    async def commit(first: int, stop: int) -> None:
        engine = await repository.engine()
        entries: dict[str, Entry] = {}
        packs = []
        for start in range(first, stop, per_pack):
            pack, at = secrets.token_bytes(PACK_ID_BYTES), 8
            numbers = range(start, min(stop, start + per_pack))
            for number in numbers:
                length = length_of(number)
                entries[key_of(number)] = Entry(0, length, pack, at)
                at += length + CRC_BYTES
            packs.append(PackRef(pack, at - 8 - CRC_BYTES * len(numbers)))
        await engine.commit(Changes(delta=Delta(entries), packs=packs))

    for first in range(0, count, PIECE):
        run_sync(commit(first, min(count, first + PIECE)))
    middle = count // 2
    array[middle : middle + REAL] = values(middle, REAL)


class Store:
    """A store as seen through the proxy, in a process that holds nothing yet."""

    def __init__(self, bucket: S3Bucket, proxy: S3Proxy, count: int) -> None:
        self.bucket = dataclasses.replace(bucket, endpoint_url=proxy.endpoint_url)
        self.proxy = proxy
        self.count = count
        self.random = np.random.default_rng(5)

    def opened(self) -> Any:
        forget()
        return array_at(self.bucket, self.count)

    def count_of(self, act: Callable[[], object]) -> dict[str, float]:
        self.proxy.configure(ttfb=LATENCY)
        cost = counted(self.proxy, act)
        self.proxy.configure(ttfb="0")
        return cost

    def open_and_read(self) -> dict[str, float]:
        forget()
        middle = self.count // 2 + 7
        began = time.perf_counter()

        def act() -> None:
            assert (array_at(self.bucket, self.count, mode="r")[middle] == value_of(middle)).all()

        return {**self.count_of(act), "seconds": time.perf_counter() - began}

    def read_adjacent(self) -> dict[str, float]:
        array = self.opened()
        middle = self.count // 2
        array[middle]
        return self.count_of(lambda: array[middle + 100 : middle + 100 + BURST])

    def write_bursts(self) -> dict[str, float]:
        """Write 200 adjacent chunks, some times; the mean."""
        array = self.opened()
        starts = self.random.integers(self.count - BURST, size=BURSTS).tolist()

        def act() -> None:
            for start in starts:
                array[start : start + BURST] = values(start, BURST)

        stored = sum(
            length_of(number) + CRC_BYTES for start in starts for number in range(start, start + BURST)
        )
        return _mean(self.count_of(act), BURSTS, stored)

    def write_singles(self) -> dict[str, float]:
        """Write single chunks all over the array, when so many were written before that the delta is nearly full."""
        array = self.opened()
        before = prefilled(self.count)
        repository, _ = repository_of(array)
        run_sync(self._scatter(repository, before))
        numbers = self.random.choice(self.count, size=SINGLES, replace=False).tolist()
        before_bytes = run_sync(self._held(repository))
        self.proxy.configure(ttfb=LATENCY)
        with self.proxy.counting() as count:
            for number in numbers:
                array[number] = value_of(number)
        self.proxy.configure(ttfb="0")
        stored = [length_of(number) + CRC_BYTES for number in numbers]
        cost = _mean(figures(count), SINGLES, sum(stored))
        cost["most_metadata_bytes"] = max(
            written - values for written, values in zip(_written_by_commits(count.log), stored, strict=True)
        )
        after = run_sync(self._held(repository))
        # every value replaces one of its length, so what is live grew by pages and root alone
        garbage = (after["pack_bytes"] - before_bytes["pack_bytes"]) - (after["live"] - before_bytes["live"])
        return {**cost, "garbage": garbage / SINGLES, "commit_bytes": after["newest"]}

    def open_aged(self) -> dict[str, float]:
        """Open and read as before, when 1,000 chunks more were changed one by one, and all of that is in pages."""
        repository, _ = repository_of(self.opened())
        run_sync(self._scatter(repository, min(AGED, self.count // 4)))
        return {**self.open_and_read(), **{f"aged_{name}": value for name, value in self.told().items()}}

    async def _scatter(self, repository: Any, count: int) -> None:
        """Change chunks outside of the middle, each as if by a commit of its own."""
        middle = self.count // 2
        drawn = self.random.choice(self.count - REAL, size=count, replace=False)
        engine = await repository.engine()
        entries, packs = {}, []
        for number in np.where(drawn < middle, drawn, drawn + REAL).tolist():
            pack = secrets.token_bytes(PACK_ID_BYTES)
            entries[key_of(number)] = Entry(0, length_of(number), pack, 8)
            packs.append(PackRef(pack, length_of(number)))
        await engine.commit(Changes(delta=Delta(entries), packs=packs))

    async def _held(self, repository: Any) -> dict[str, float]:
        engine = await repository.engine()
        version = await repository.version()
        root = await engine.reader.root(version)
        listed = await engine.objects.list("")
        live = sum(page.location.length for page in root.pages)
        if version.commit.root_at is not None:
            live += version.commit.root_at.length
        return {
            "pack_bytes": sum(info.size for info in listed if info.path.startswith("packs/")),
            "newest": next(
                info.size for info in sorted(listed, key=lambda info: info.path) if "heads" in info.path
            ),
            "live": live,
        }

    def list_all(self) -> dict[str, float]:
        """List all keys, when the root is in memory and no page is."""
        array = self.opened()
        repository, _ = repository_of(array)

        async def act() -> int:
            engine = await repository.engine()
            version = await repository.version()
            found = 0
            async for _ in list_entries(engine.reader, View(version=version), ""):
                found += 1
            return found

        async def open_root() -> None:
            engine = await repository.engine()
            await engine.reader.root(await repository.version())

        run_sync(open_root())
        return self.count_of(lambda: run_sync(act()))

    def list_folder(self) -> dict[str, float]:
        """List what lies directly below the root of the store, likewise."""
        array = self.opened()
        repository, _ = repository_of(array)

        async def open_root() -> None:
            engine = await repository.engine()
            await engine.reader.root(await repository.version())

        run_sync(open_root())
        return self.count_of(lambda: run_sync(repository.list_children("")))

    def told(self) -> dict[str, float]:
        """Return how large the structures of the newest version are."""
        repository, _ = repository_of(self.opened())

        async def look() -> dict[str, float]:
            engine = await repository.engine()
            version = await repository.version()
            root = await engine.reader.root(version)
            commit = version.commit
            assert commit is not None
            return {
                "pages": len(root.pages),
                "packs": len(root.packs),
                "page_bytes": sum(page.location.length for page in root.pages),
                "root_bytes": len(commit.root) or (commit.root_at.length if commit.root_at else 0),
                "root_is_inline": bool(commit.root),
            }

        return run_sync(look())


def prefilled(count: int) -> int:
    """Return how many changes of single chunks fill a delta, but for some."""
    return DELTA_BYTES // entry_bytes(key_of(count - 1), Entry(0, 1, bytes(PACK_ID_BYTES))) - 10


def verified(bucket: S3Bucket, proxy: S3Proxy, count: int) -> dict[str, float]:
    """Write so many chunks, and count the verification of all."""
    array = array_at(bucket, count, create=True)
    with_blocks = 5_000

    def write() -> None:
        import zarrvec

        with zarrvec.transaction(array, message="all"):
            for first in range(0, count, with_blocks):
                array[first : first + with_blocks] = values(first, min(with_blocks, count - first))

    write()
    forget()
    proxied = dataclasses.replace(bucket, endpoint_url=proxy.endpoint_url)
    repository, _ = repository_of(array_at(proxied, count, mode="r"))

    async def act() -> None:
        found = await verify(await repository.engine())
        assert not found.damages
        assert found.values > count

    async def packs() -> int:
        version = await repository.version()
        await (await repository.engine()).reader.root(version)
        return len(version.packs())

    cost = counted(proxy, lambda: run_sync(act()))
    return {**cost, "packs": run_sync(packs())}


def _written_by_commits(log: tuple[RequestRecord, ...]) -> list[int]:
    """Return the bytes that each commit sent; the object of the commit is its last."""
    written = [0]
    for record in log:
        if record.kind == "PUT":
            written[-1] += record.bytes_in
            if "/refs/heads/" in record.target:
                written.append(0)
    return written[:-1]


def _mean(cost: dict[str, float], commits: int, value_bytes: int) -> dict[str, float]:
    mean = {name: taken / commits for name, taken in cost.items()}
    return {**mean, "metadata_bytes": (cost["written_bytes"] - value_bytes) / commits}
