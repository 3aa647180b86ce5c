"""Where do writes wait for their commit, and how do more of them than memory holds get there?

Values are gathered until they fill a pack, which is then uploaded while more are gathered; at most two packs are on
their way at once. Nothing of it is visible before the commit.

Source: ``specs/commit.md``, section "Transactions".
"""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from zarrvec.engine.changes import Changes
from zarrvec.engine.reader import KEPT_BYTES
from zarrvec.engine.recent import Recent
from zarrvec.engine.version import Version, View
from zarrvec.engine.writer import Upload, Writer
from zarrvec.format.keys import is_metadata, sort_key
from zarrvec.layout.delta import Delta
from zarrvec.layout.fold import holds_inline
from zarrvec.layout.packing import split_values
from zarrvec.types import Entry, PackRef

AHEAD_BYTES: Final = 4 << 20
"""A pack that is sent before it is full holds at least this much."""
IN_FLIGHT: Final = 2


class HandedOver(NamedTuple):
    """What one process has written for another to commit. It pickles; until it is committed nobody sees any of it."""

    entries: tuple[tuple[str, Entry], ...]
    """Keys, and where their values are: in packs, or here if they are small. Those that were deleted are among them."""
    packs: tuple[PackRef, ...]
    """Packs that the entries refer to; all of them are there."""


class Staging:
    """Writes on top of one version, not yet committed.

    Parameters
    ----------
    writer
        Uploads full packs.
    version
        What is read and written on top of.
    """

    def __init__(self, writer: Writer, version: Version) -> None:
        self._writer = writer
        self.version = version
        self._delta = Delta()
        self._expects: dict[str, int] = {}
        self._structures: dict[str, bytes] = {}
        self.read_documents: dict[str, int] = {}
        """Generation of each metadata document that was read inside a transaction, on which its writes rest."""
        self._buffered: dict[str, bytes] = {}
        self._buffered_bytes = 0
        self._kept: Recent[str, bytes] = Recent(KEPT_BYTES)
        """Values to be kept in memory once they are in packs."""
        self._upload = Upload()
        self._uploads: dict[asyncio.Task[None], Upload] = {}
        """Packs on their way."""
        self._watches: list[set[str]] = []
        self.hurries = False
        """Whether what a call writes is sent when it has written it, if that is much."""

    @property
    def view(self) -> View:
        """What is read inside: the version, and what was written here."""
        return View(version=self.version, overlay=self._delta)

    def expect(self, key: str, generation: int) -> None:
        """Note that a write rests on what was read; a key that was written here before rests on nothing."""
        if key not in self._expects and self._delta.find(key) is None:
            self._expects[key] = generation

    def note_document(self, key: str, generation: int) -> None:
        """Note that a metadata document was read, on which a write of it rests; one that was written here rests on nothing."""
        if self._delta.find(key) is None:
            self.read_documents[key] = generation

    def rest_on(self, key: str, structure: bytes) -> None:
        """Note that chunks are written as a metadata document describes them in the version that this stands on."""
        self._structures[key] = structure

    def watch(self) -> set[str]:
        """Return a set to which every key is added that is written or deleted from now on."""
        self._watches.append(set())
        return self._watches[-1]

    async def put(self, key: str, data: bytes, *, keep: bool = False) -> None:
        """Write a value; `keep` it in memory if it is soon read again, most likely, since a part of it was changed or will be."""
        self._forget(key)
        self._delta.entries[key] = Entry.inline(data)
        if holds_inline(key, len(data)):
            return
        if keep:
            self._kept.put(key, data, len(data))
        self._buffered[key] = data
        self._buffered_bytes += len(data)
        if self._buffered_bytes >= self._writer.pack_bytes:
            await self._send()

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._forget(key)
        self._delta.entries[key] = Entry(0)

    def clear(self, prefix: str) -> None:
        """Delete everything below a prefix."""
        for watch in self._watches:
            watch.update(key for key, _ in self._delta.below(prefix))
        self._delta.clear(prefix, 0)
        for key in [key for key in self._buffered if key not in self._delta.entries]:
            self._forget(key)

    def place(self, key: str, entry: Entry) -> None:
        """Write a value that is in a pack, or inline, already."""
        self._forget(key)
        self._delta.entries[key] = entry.at(0)

    def refer(self, packs: Mapping[bytes, int]) -> None:
        """Name packs that placed entries refer to, with the bytes of values in each."""
        self._upload.packs.extend(PackRef(*item) for item in packs.items())

    def take_over(self, handed: HandedOver) -> None:
        """Write what another process has handed over."""
        for key, entry in handed.entries:
            self.place(key, entry)
        self.refer(dict(handed.packs))

    async def hand_over(self) -> HandedOver:
        """Bring all that was written into packs, for another process to commit; nothing must be written after that.

        Cleared prefixes are not part of it.
        """
        values = sorted(self._buffered.items(), key=lambda value: sort_key(value[0]))
        self._buffered, self._buffered_bytes = {}, 0
        for start, stop in split_values([len(data) for _, data in values], self._writer.pack_bytes):
            await self._send_values(values[start:stop])
        for task in list(self._uploads):
            await task
        return HandedOver(tuple(self._delta.entries.items()), tuple(self._upload.packs))

    def _forget(self, key: str) -> None:
        for watch in self._watches:
            watch.add(key)
        self._buffered_bytes -= len(self._buffered.pop(key, b""))
        self._kept.drop(key)

    async def _send(self) -> None:
        """Send full packs on their way; what fills none stays and waits for more."""
        values = sorted(self._buffered.items(), key=lambda value: sort_key(value[0]))
        runs = split_values([len(data) for _, data in values], self._writer.pack_bytes)
        rest = values[slice(*runs[-1])]
        self._buffered, self._buffered_bytes = {}, 0
        if len(runs) > 1 and (size := sum(len(data) for _, data in rest)) < self._writer.pack_bytes:
            self._buffered, self._buffered_bytes = dict(rest), size
            runs.pop()
        for start, stop in runs:
            await self._send_values(values[start:stop])

    async def send_ahead(self, least: int = AHEAD_BYTES) -> None:
        """Send what waits on its way if it is so many bytes, worth a pack of its own: something slow comes before the commit.

        When this returns the request has been made: a caller that goes on to compute does not hold it up.
        """
        if self._buffered_bytes < least:
            return
        values = sorted(self._buffered.items(), key=lambda value: sort_key(value[0]))
        self._buffered, self._buffered_bytes = {}, 0
        begun = asyncio.Event()
        task = await self._send_values(values, begun)
        task.add_done_callback(lambda _: begun.set())
        await begun.wait()

    async def _send_values(
        self, values: list[tuple[str, bytes]], begun: asyncio.Event | None = None
    ) -> asyncio.Task[None]:
        while len(self._uploads) >= IN_FLIGHT:
            done, _ = await asyncio.wait(self._uploads, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if self._uploads.pop(task, None) is not None:  # not another's, who waited for the same
                    task.result()
        upload = Upload()
        pack = upload.add_pack(values)
        task = asyncio.ensure_future(self._send_pack(pack, values, upload, begun))
        self._uploads[task] = upload
        return task

    async def _send_pack(
        self,
        pack: bytes,
        values: list[tuple[str, bytes]],
        upload: Upload,
        begun: asyncio.Event | None,
    ) -> None:
        await self._writer.put_values(pack, values, self.version, begun)
        for key, (data, entry) in upload.located.items():
            mine = self._delta.entries.get(key)
            if mine is not None and mine.data is data:
                self._delta.entries[key] = entry
                if self._kept.get(key) is data:  # it may be read in this transaction
                    self._writer.reader.keep_value(entry, data)
        self._upload.packs.extend(upload.packs)

    def changes(self, *, message: str = "", author: str = "", automatic: bool = True) -> Changes:
        """Return what is to be committed; packs may still be on their way."""
        delta, packs = self._delta, list(self._upload.packs)
        for task, upload in self._uploads.items():
            if not task.done():
                delta = upload.placed(delta)
                packs += upload.packs
        return Changes(
            delta=delta,
            expects=self._expects,
            structures=self._structures,
            base=self.version.number,
            packs=packs,
            uploads=list(self._uploads),
            kept=dict(self._kept.items()),
            message=message,
            author=author,
            automatic=automatic,
        )

    async def discard(self) -> None:
        """Stop uploads; what was uploaded is garbage that no commit names."""
        for task in self._uploads:
            task.cancel()
        await asyncio.gather(*self._uploads, return_exceptions=True)
        self._uploads = {}

    def written_documents(self) -> list[str]:
        """Return the metadata documents that were written or deleted here."""
        return [key for key in self._delta.entries if is_metadata(key)]
