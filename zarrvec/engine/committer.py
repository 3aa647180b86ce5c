"""How does a change become the next commit, whoever else commits at the same time?

Calls that are in flight together share one commit. A lost race is rebased onto the commit that won: only the commit
object is written again. A lost response is resolved by reading the object back and comparing write ids.

Source: ``specs/commit.md``, sections "Committing" and "Conflicts".
"""

import asyncio
import getpass
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from zarrvec.engine.changes import Changes, stale_keys
from zarrvec.engine.heads import TRUST_NEXT_SECONDS, Heads, commit_path, now
from zarrvec.engine.outcomes import stale_error, unknown_outcome
from zarrvec.engine.reader import Reader
from zarrvec.engine.version import Version, open_version, same_root
from zarrvec.engine.writer import Folded, Upload, Writer
from zarrvec.errors import AccessError, StorageError
from zarrvec.format.commit import Commit, encode_commit
from zarrvec.format.manifest import Root, decode_page
from zarrvec.format.table import encode_table
from zarrvec.layout.delta import Delta
from zarrvec.layout.fold import (
    DELTA_LIMIT_BYTES,
    TINY_COMMIT_BYTES,
    delta_bytes,
    loose_bytes,
    rebase_folded,
)
from zarrvec.objects.protocol import Objects
from zarrvec.types import VERSION, WRITE_ID_BYTES, PackRef

CREATE_TRIES: Final = 6
"""How often a create whose outcome could not be read back is tried."""
_SPREAD: Final = 10.0
"""Waits are spread over this many times what a request takes, times the races lost: 8 writers at once then need 7 requests
each on average (simulated and measured), where trying again at once needs 9."""
_LONGEST_REQUEST_SECONDS: Final = 0.5
_ALONE_LOSSES: Final = 1
"""After more lost races than this, wait a little and look for the newest commit before trying again."""


@dataclass(slots=True, eq=False)
class _Waiting:
    changes: Changes
    done: asyncio.Future[Version]


class Committer:
    """Makes the commits of one branch.

    Parameters
    ----------
    objects, heads, reader, writer
        Of the same store.
    before_first
        Called before the first commit of a store is made; raises if it may not be made.
    """

    def __init__(
        self,
        objects: Objects,
        heads: Heads,
        reader: Reader,
        writer: Writer,
        before_first: Callable[[], Awaitable[None]],
    ) -> None:
        self._objects = objects
        self._heads = heads
        self._reader = reader
        self._writer = writer
        self._before_first = before_first
        self._queue: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def commit(self, changes: Changes) -> Version:
        """Land some changes; return the version that has them.

        Raises
        ------
        StaleError
            If an expected generation no longer holds.
        StorageError
            If the storage fails before the commit: nothing landed.
        UnknownOutcomeError
            If it fails so that nobody can tell.
        """
        waiting = _Waiting(changes, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())
        return await asyncio.shield(waiting.done)

    async def _run(self) -> None:
        try:
            await asyncio.sleep(0)  # let calls that are in flight together gather
            while self._queue:
                group = self._take()
                attempt = _Attempt(write_id=secrets.token_bytes(WRITE_ID_BYTES))
                try:
                    await self._commit_group(group, attempt)
                except BaseException as error:
                    if attempt.upload is not None:
                        attempt.upload.stop()
                    for waiting in group:
                        if not waiting.done.done():
                            waiting.done.set_exception(error)
                            waiting.done.exception()
                    if not isinstance(error, Exception):
                        raise
        finally:
            self._running = None

    def _take(self) -> list[_Waiting]:
        """Take the calls that may share a commit: automatic ones up to the next that must have a commit of its own.

        One that writes what another did has: their values would have one generation, and a vector index that came with
        the first would pass as that of the second.
        """
        size = 1
        if self._queue[0].changes.automatic:
            written = set(self._queue[0].changes.delta.entries)
            while size < len(self._queue):
                changes = self._queue[size].changes
                if (
                    not changes.automatic
                    or changes.delta.clears
                    or not written.isdisjoint(changes.delta.entries)
                ):
                    break
                written.update(changes.delta.entries)
                size += 1
        group, self._queue = self._queue[:size], self._queue[size:]
        return group

    async def _commit_group(self, group: list[_Waiting], attempt: "_Attempt") -> None:
        head = await self._heads.current(checked_after=now() - TRUST_NEXT_SECONDS)
        if not head.number:
            head = await self._heads.newest()
        if not head.number:
            await self._before_first()
        losses = 0
        while True:
            if any([await stale_keys(self._reader, head, Delta(), waiting.changes) for waiting in group]):
                head = await self._heads.newest()  # only the newest commit tells whether it is a conflict
            group, merged = await self._merge(head, group, attempt.upload)
            if not merged:
                newest = await self._heads.current(checked_after=now()) if group else head
                if newest.number != head.number:
                    head = newest  # what is to be deleted may have come since
                    continue
                for waiting in group:
                    waiting.done.set_result(head)
                return
            if attempt.upload is None:
                packs = [pack for waiting in group for pack in waiting.changes.packs]
                attempt.upload = await self._writer.upload(head, merged, packs)
                attempt.survivors = len(group)
                merged = attempt.upload.placed(merged)
            version, folded = await self._prepare(head, merged, group, attempt)
            await attempt.upload.sent()
            for waiting in group:
                for upload in waiting.changes.uploads:
                    await upload
            if not self._heads.is_trusted():  # the upload took long: the next number may have come and gone
                head = await self._heads.newest()
                continue
            version.commit = _made_now(version.commit, head)
            asked = time.monotonic()
            landed, winner = await self._create(version, name_winner=losses == 0)
            if landed and not self._heads.is_trusted() and not await self._is_in_line(version):
                head = await self._heads.newest()
                continue
            if landed:
                self._keep_pages(folded, version)
                self._keep_values(group, attempt.upload, merged)
                self._heads.landed(version)
                for waiting in group:
                    waiting.done.set_result(version)
                return
            losses += 1
            took = min(time.monotonic() - asked, _LONGEST_REQUEST_SECONDS)
            if winner is not None:
                head = open_version(winner, near=head)
                self._heads.saw(head)  # who is stale reads again, and must not read what was stale
            if losses > _ALONE_LOSSES:
                await asyncio.sleep(random.uniform(0, _SPREAD * took * losses))  # noqa: S311
                head = await self._heads.newest()

    async def _merge(
        self, head: Version, group: list[_Waiting], upload: Upload | None
    ) -> tuple[list[_Waiting], Delta]:
        """Put the calls on top of each other, in order; those that are stale get their error and leave the group."""
        merged = Delta()
        kept: list[_Waiting] = []
        root = await self._reader.root(head) if any(w.changes.delta.clears for w in group) else None
        for waiting in group:
            stale = await stale_keys(self._reader, head, merged, waiting.changes)
            if stale:
                if upload is not None:
                    await self._heads.newest()  # it will be redone, and not once for each that was missed
                waiting.done.set_exception(stale_error(stale))
                waiting.done.exception()
                continue
            kept.append(waiting)
            for clear in waiting.changes.delta.clears:
                if merged.entries or root is None or _has_below(head, root, clear.prefix):
                    merged.clear(clear.prefix, 0)
            for key, entry in waiting.changes.delta.entries.items():
                if entry.is_deleted and merged.find(key) is None and _surely_absent(head, key):
                    continue
                merged.entries[key] = entry
        return kept, merged if upload is None else upload.placed(merged)

    async def _prepare(
        self, head: Version, merged: Delta, group: list[_Waiting], attempt: "_Attempt"
    ) -> tuple[Version, Folded | None]:
        """Make the version that is tried as the next one."""
        upload = attempt.upload
        assert upload is not None
        number = head.number + 1
        folded = upload.folded
        if folded is not None and not (
            len(group) == attempt.survivors
            and same_root(folded.base, head)
            and set(head.delta.clears) <= set(folded.base.delta.clears)
        ):
            folded = None
        if folded is None and (
            loose_bytes(merged) > TINY_COMMIT_BYTES
            or delta_bytes(head.delta.updated(merged, number)) > DELTA_LIMIT_BYTES
        ):
            again = await self._writer.upload(head, merged, upload.packs)
            upload.add(again)
            attempt.survivors = len(group)
            merged = upload.placed(merged)
            folded = upload.folded
        root_bytes, root_at, root_number = b"", None, 0
        if folded is not None:
            delta = rebase_folded(head.delta, folded=folded.keys, own=merged, generation=number)
            root: Root | None = _numbered(folded.root, number)
            root_bytes, root_at = folded.root_bytes, folded.root_at
        else:
            delta = head.delta.updated(merged, number)
            root = head.root
            if head.commit is not None:
                root_bytes, root_at = head.commit.root, head.commit.root_at
                root_number = head.commit.root_number or head.commit.number
        known = {**head.packs(), **dict(upload.packs)}
        if root is not None:
            known = {pack: size for pack, size in known.items() if pack not in root.packs}
        used = {entry.pack for entry in delta.entries.values()}
        first = group[0].changes
        commit = Commit(
            number=number,
            write_id=attempt.write_id,
            parent=head.commit.write_id if head.commit is not None else b"",
            time_us=0,  # told when all packs are there
            author=first.author or default_author(),
            message=first.message,
            automatic=first.automatic,
            root=root_bytes,
            root_at=root_at,
            root_number=root_number,
            delta=encode_table(delta.sorted_rows()),
            clears=delta.clears,
            packs=[PackRef(pack, size) for pack, size in known.items() if pack in used],
            writer=f"zarrvec {VERSION}",
        )
        return Version(commit=commit, delta=delta, root=root), folded

    async def _create(self, version: Version, *, name_winner: bool) -> tuple[bool, Commit | None]:
        """Try to make the commit; return whether it landed and, if not, the one that was there first.

        Without `name_winner` that one is read only where it may be this very commit.
        """
        commit = version.commit
        assert commit is not None
        path = commit_path(self._heads.branch, commit.number)
        data = encode_commit(commit)
        failure: StorageError | None = None
        for trial in range(CREATE_TRIES):
            try:
                if await self._objects.create(path, data):
                    return True, None
                if not name_winner and failure is None and self._objects.create_refusals_are_final:
                    return False, None
            except AccessError:
                raise
            except StorageError as error:
                failure = error
            try:
                there = await self._heads.read(commit.number)
            except StorageError as error:
                raise unknown_outcome(self._objects.name, path, failure or error) from error
            if there is not None:
                return (True, None) if there.write_id == commit.write_id else (False, there)
            await asyncio.sleep(0.05 * 2**trial)
        raise unknown_outcome(self._objects.name, path, failure)

    async def _is_in_line(self, version: Version) -> bool:
        """Return whether a commit that took very long to make has its place, and not that of one dropped meanwhile."""
        commit = version.commit
        assert commit is not None
        if (await self._heads.newest()).number == commit.number:
            return True
        following = await self._heads.read(commit.number + 1)
        return following is not None and following.parent == commit.write_id

    def _keep_pages(self, folded: Folded | None, version: Version) -> None:
        """Nothing that was just written has to be read: put new pages into the cache."""
        if folded is None or version.root is None:
            return
        for data, ref in zip(
            folded.pages, (page for page in version.root.pages if page.number == version.number), strict=True
        ):
            self._reader.keep_page(ref.location, decode_page(data, name="page", number=version.number))

    def _keep_values(self, group: list[_Waiting], upload: Upload, merged: Delta) -> None:
        """Nor what was changed in part, when that is done again."""
        kept = {key: data for waiting in group for key, data in waiting.changes.kept.items()}
        placed = upload.placed(merged) if kept else merged
        for key, data in kept.items():
            entry = placed.entries[key]
            if entry.pack:
                self._reader.keep_value(entry, data)


@dataclass(slots=True, kw_only=True)
class _Attempt:
    write_id: bytes
    upload: Upload | None = None
    survivors: int = 0
    """How many calls the upload was made for."""


def _made_now(commit: Commit | None, head: Version) -> Commit:
    """Return a commit with the time at which it is tried, later than that of the one before."""
    assert commit is not None
    least = 0 if head.commit is None else head.commit.time_us + 1
    return msgspec.structs.replace(commit, time_us=max(time.time_ns() // 1000, least))


@lru_cache(maxsize=1)
def default_author() -> str:
    """Return the name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _has_below(head: Version, root: Root, prefix: str) -> bool:
    return bool(root.pages_below(prefix)) or next(head.delta.below(prefix), None) is not None


def _surely_absent(head: Version, key: str) -> bool:
    """Whether deleting a key changes nothing, as far as can be told without reading a page."""
    entry = head.delta.find(key)
    if entry is not None:
        return entry.is_deleted and (head.root is not None and head.root.page_of(key) is None)
    return head.root is not None and head.root.page_of(key) is None


def _numbered(root: Root, number: int) -> Root:
    """Return a root whose new pages carry the number of the commit being tried."""
    pages = [page if page.number else msgspec.structs.replace(page, number=number) for page in root.pages]
    return Root(pages, [PackRef(*item) for item in root.packs.items()])
