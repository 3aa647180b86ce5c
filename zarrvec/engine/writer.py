"""How do changes become packs: values in key order, pages folded in, a footer that tells it all again?

Source: ``specs/commit.md``, sections "Packing" and "Folding".
"""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from zarrvec.engine.reader import Reader
from zarrvec.engine.version import Version
from zarrvec.format.commit import ROOT_INLINE_BYTES
from zarrvec.format.keys import sort_key
from zarrvec.format.manifest import Root, encode_page, encode_root, split_pages
from zarrvec.format.pack import Footer, pack_name, pack_parts, value_offsets, values_end
from zarrvec.format.table import encode_table
from zarrvec.layout.delta import Delta
from zarrvec.layout.fold import (
    TINY_COMMIT_BYTES,
    FoldPlan,
    holds_inline,
    is_due,
    loose_bytes,
    plan_fold,
    rewrite,
)
from zarrvec.layout.packing import split_values
from zarrvec.objects.protocol import Objects
from zarrvec.types import PACK_ID_BYTES, Clear, Entry, Location, PackRef, PageRef

UPLOADS: Final = 4
"""Packs that one commit uploads side by side."""


@dataclass(slots=True, kw_only=True)
class Folded:
    """Pages that were written, and what they took over from the delta."""

    root: Root
    """Pages of number 0 are of the commit being made."""
    root_bytes: bytes
    """The root's envelope, if it stands in the commit."""
    root_at: Location | None
    """Where the root's envelope is, if it stands in a pack."""
    keys: dict[str, int]
    """Keys that the pages took over, and the generation that each had."""
    base: Version
    """What it was folded on top of."""
    pages: list[bytes]
    """Envelopes of the new pages, in the order of the root."""


@dataclass(slots=True, kw_only=True)
class Upload:
    """What was uploaded for a commit; a lost race uploads none of it again."""

    located: dict[str, tuple[bytes, Entry]] = field(default_factory=dict)
    """Values that were uploaded, and where they are now."""
    packs: list[PackRef] = field(default_factory=list)
    """Packs written."""
    folded: Folded | None = None
    """Pages written, if the delta was folded."""
    sending: list[asyncio.Task[None]] = field(default_factory=list)
    """Packs on their way: no commit may name them before they are there."""

    async def sent(self) -> None:
        """Wait until all packs are there."""
        for task in self.sending:
            await task

    def stop(self) -> None:
        """Stop what is on its way."""
        for task in self.sending:
            task.cancel()

    def add(self, later: "Upload") -> None:
        """Take in what was uploaded for a later try."""
        self.located.update(later.located)
        self.packs = later.packs
        self.folded = later.folded
        self.sending += later.sending

    def add_pack(self, values: Sequence[tuple[str, bytes]]) -> bytes:
        """Note the values of one pack, in key order; return its new name."""
        pack = secrets.token_bytes(PACK_ID_BYTES)
        rows = _place(pack, values)
        self.located.update({key: (data, row[1]) for (key, data), row in zip(values, rows, strict=True)})
        self.packs.append(PackRef(pack, sum(len(data) for _, data in values)))
        return pack

    def placed(self, delta: Delta) -> Delta:
        """Return changes with the places of uploaded values for the values."""
        result = delta.copy()
        for key, (data, entry) in self.located.items():
            mine = result.entries.get(key)
            if mine is not None and mine.data is data:
                result.entries[key] = entry
        return result


class Writer:
    """Writes packs of one store.

    Parameters
    ----------
    objects
        The object storage.
    reader
        Of the same store; gives the pages that are rewritten.
    pack_bytes
        Target size of a pack.
    """

    def __init__(self, objects: Objects, reader: Reader, *, pack_bytes: int) -> None:
        self._objects = objects
        self.reader = reader
        self.pack_bytes = pack_bytes
        self._slots = asyncio.Semaphore(UPLOADS)

    async def upload(self, base: Version, changes: Delta, packs: Sequence[PackRef] = ()) -> Upload:
        """Write the values of some changes into packs, and fold the delta if it is due.

        A commit that needs no pack uploads nothing: its values stand in the delta. `packs` are those that entries of
        the changes already refer to. The last pack is still being sent when this returns, see `Upload.sent`.
        """
        upload = Upload(packs=list(packs))
        delta = base.delta.updated(changes, 0)
        after = base.delta.updated(_without_loose(changes), 0)
        plan = plan_fold(await self.reader.root(base), after, changes.entries) if is_due(after) else None
        values = self._values(changes, delta, plan)
        runs = split_values([len(data) for _, data in values], self.pack_bytes)
        if not runs and plan is None:
            return upload
        last = runs.pop() if runs else (0, 0)
        parts = [values[start:stop] for start, stop in runs]
        await asyncio.gather(*(self.put_values(upload.add_pack(part), part, base) for part in parts))
        await self._send_last(upload, values[last[0] : last[1]], base, delta, plan)
        return upload

    def _values(self, changes: Delta, delta: Delta, plan: FoldPlan | None) -> list[tuple[str, bytes]]:
        """Choose the values that go into packs, in key order."""
        if plan is None and loose_bytes(changes) <= TINY_COMMIT_BYTES:
            return []
        keys = {*changes.entries, *(plan.keys if plan else ())}
        loose = [
            (key, data)
            for key in keys
            if (data := delta.entries[key].data) is not None and not holds_inline(key, len(data))
        ]
        return sorted(loose, key=lambda value: sort_key(value[0]))

    async def put_values(
        self,
        pack: bytes,
        values: Sequence[tuple[str, bytes]],
        base: Version,
        begun: asyncio.Event | None = None,
    ) -> None:
        """Write one pack of values, which must be in key order, perhaps ahead of the commit that will name it.

        `begun` is set when the request is being made.
        """
        await self._put(pack, values, [], _footer(pack, base, _place(pack, values)), begun)

    async def _send_last(
        self,
        upload: Upload,
        values: Sequence[tuple[str, bytes]],
        base: Version,
        delta: Delta,
        plan: FoldPlan | None,
    ) -> None:
        pack = upload.add_pack(values)
        rows = _place(pack, values)
        located = delta.copy()
        for key, (_, entry) in upload.located.items():
            located.entries[key] = entry.at(delta.entries[key].generation)
        in_pages = plan.keys if plan is not None else frozenset()
        inline = {
            key: entry for key, entry in located.entries.items() if not entry.pack and key not in in_pages
        }
        footer = _footer(
            pack, base, rows, changes=encode_table(Delta(inline).sorted_rows()), clears=delta.clears
        )
        structures: list[bytes] = []
        if plan is not None:
            end = values_end([len(data) for _, data in values])
            upload.folded, structures = await self._fold(base, located, plan, pack, end, upload)
            places = []
            for structure in structures:
                places.append((end, len(structure)))
                end += len(structure)
            root_place = places.pop() if upload.folded.root_at else None
            footer = msgspec.structs.replace(footer, pages=places, root=root_place)
        upload.sending.append(asyncio.ensure_future(self._put(pack, values, structures, footer)))
        await asyncio.sleep(0)  # it begins before whatever is made meanwhile

    async def _put(
        self,
        pack: bytes,
        values: Sequence[tuple[str, bytes]],
        structures: Sequence[bytes],
        footer: Footer,
        begun: asyncio.Event | None = None,
    ) -> None:
        async with self._slots:
            data = await asyncio.to_thread(pack_parts, [value for _, value in values], structures, footer)
            if begun is not None:
                begun.set()  # who waits for it goes on when this task next waits
            await self._objects.put(pack_name(pack), data)

    async def _fold(
        self, base: Version, located: Delta, plan: FoldPlan, pack: bytes, end: int, upload: Upload
    ) -> tuple[Folded, list[bytes]]:
        """Write the pages of a fold; they will stand in `pack` from `end` on."""
        root = await self.reader.root(base)
        refs = [root.pages[fold.page] for fold in plan.folds if fold.page is not None]
        tables = iter(await self.reader.pages(refs))
        old_rows: list[Sequence[tuple[str, Entry]]] = [
            list(next(tables)) if fold.page is not None else [] for fold in plan.folds
        ]

        def write() -> tuple[list[tuple[int, PageRef]], list[bytes]]:
            at = end
            added: list[tuple[int, PageRef]] = []
            pages: list[bytes] = []
            for fold, rows in zip(plan.folds, old_rows, strict=True):
                changes = tuple((key, located.entries[key]) for key, _ in fold.changes)
                merged = rewrite(rows, dataclasses.replace(fold, changes=changes), located)
                for page in split_pages(merged):
                    data = encode_page(page)
                    ref = _page_ref(page, Location(pack, at, len(data)))
                    added.append((fold.position, ref))
                    pages.append(data)
                    at += len(data)
            return added, pages

        added, pages = await asyncio.to_thread(write)
        replaced = {fold.page for fold in plan.folds if fold.page is not None} | plan.dropped
        refs_after: list[PageRef] = []
        waiting = iter(added)
        following = next(waiting, None)
        for position in range(len(root.pages) + 1):
            while following is not None and following[0] == position:
                refs_after.append(following[1])
                following = next(waiting, None)
            if position < len(root.pages) and position not in replaced:
                refs_after.append(root.pages[position])
        known = {**base.packs(), **dict(upload.packs)}
        used = {page.location.pack for page in refs_after}.union(
            name for page in refs_after for name, _ in page.usage
        )
        new_root = Root(refs_after, [PackRef(name, size) for name, size in known.items() if name in used])
        root_bytes = encode_root(new_root)
        root_at = None
        structures = pages
        if len(root_bytes) > ROOT_INLINE_BYTES:
            root_at = Location(pack, end + sum(map(len, pages)), len(root_bytes))
            structures = [*pages, root_bytes]
            root_bytes = b""
        keys = {key: located.entries[key].generation for key in plan.keys}
        folded = Folded(
            root=new_root, root_bytes=root_bytes, root_at=root_at, keys=keys, base=base, pages=pages
        )
        return folded, structures


def _without_loose(changes: Delta) -> Delta:
    """Return changes as they will stand in the delta: values that go into a pack are no burden on it."""
    if loose_bytes(changes) <= TINY_COMMIT_BYTES:
        return changes
    pack = bytes(PACK_ID_BYTES)
    entries = {
        key: entry if entry.data is None or holds_inline(key, entry.length) else Entry(0, entry.length, pack)
        for key, entry in changes.entries.items()
    }
    return Delta(entries, changes.clears)


def _place(pack: bytes, values: Sequence[tuple[str, bytes]]) -> list[tuple[str, Entry]]:
    offsets = value_offsets([len(data) for _, data in values])
    return [(key, Entry(0, len(data), pack, at)) for (key, data), at in zip(values, offsets, strict=True)]


def _page_ref(rows: Sequence[tuple[str, Entry]], location: Location) -> PageRef:
    usage: dict[bytes, int] = {}
    for _, entry in rows:
        if entry.pack:
            usage[entry.pack] = usage.get(entry.pack, 0) + entry.length
    return PageRef(rows[0][0], rows[-1][0], location, len(rows), 0, tuple(usage.items()))


def _footer(
    pack: bytes,
    base: Version,
    rows: Sequence[tuple[str, Entry]],
    *,
    changes: bytes = b"",
    clears: Sequence[Clear] = (),
) -> Footer:
    return Footer(
        pack=pack,
        base=base.number,
        time_us=time.time_ns() // 1000,
        values=encode_table(rows),
        changes=changes or encode_table([]),
        clears=list(clears),
        pages=[],
        root=None,
    )
