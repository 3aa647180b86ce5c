"""How does a handle on a store read, write, and keep its place in history?

Every zarr store object and fsspec filesystem holds one `Repository`; those with equal places share an engine. The
coroutines here run in the engine's loop (`zarrvec.engine.bridge`), whoever's loop the caller is in.
"""

import contextvars
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from zarrvec.engine import listing
from zarrvec.engine.bridge import call_after_fork, run_sync
from zarrvec.engine.changes import Changes
from zarrvec.engine.documents import Documents
from zarrvec.engine.engine import Engine, Place, engine_for, known_heads, known_tracer
from zarrvec.engine.heads import now
from zarrvec.engine.outcomes import StaleError
from zarrvec.engine.reader import Found, Request
from zarrvec.engine.staging import Staging
from zarrvec.engine.tracing import Tracer
from zarrvec.engine.version import Version, View, open_version
from zarrvec.errors import OptionError, ReadOnlyError, TransactionError
from zarrvec.format.commit import Commit, decode_commit
from zarrvec.format.keys import check_key
from zarrvec.types import Entry

__all__ = ["Place", "Repository", "StaleError", "Transaction"]

MAX_STALENESS_SECONDS: Final = 1.0

_OPEN: contextvars.ContextVar[Mapping[str, "Transaction"]] = contextvars.ContextVar("zarrvec_transactions")


def _leave_transactions() -> None:
    """Leave open transactions to the process that opened them: what a forked child writes is its own."""
    _OPEN.set({})


call_after_fork(_leave_transactions)


class Repository:
    """A handle on a store: it remembers which metadata documents it has read, and perhaps a pinned version.

    Parameters
    ----------
    place
        Where the store is.
    at
        A commit's number or id, a tag, or a time: the handle is pinned to that version and read-only.
    max_staleness
        Seconds after which a live handle looks for a newer commit before it reads.
    trace
        Whether reads and writes of arrays through the handle are counted, by their shapes.
    """

    def __init__(
        self,
        place: Place,
        *,
        at: str | int | datetime | None = None,
        max_staleness: float = MAX_STALENESS_SECONDS,
        trace: bool = True,
    ) -> None:
        if not _is_seconds(max_staleness):
            raise OptionError(f"max_staleness={max_staleness!r}: expected seconds, 0 or more.")
        self.place = place
        self.at = at
        self.max_staleness = float(max_staleness)
        self.trace = trace
        self._pinned: Version | None = None
        self._pinned_commit = b""
        self._made_at = now()
        self._listed = False
        self.documents = Documents()
        """That were read through the handle."""

    def __getstate__(self) -> dict[str, Any]:
        if self.transaction is not None:
            raise TransactionError(
                f"{self.place.name}: a transaction is open here, so the store can't be pickled; commit it first."
            )
        if self.at is not None and self._pinned is None and not self._pinned_commit:
            run_sync(self.version())  # whoever opens it, and whenever, gets the same version
        pinned = self._pinned.encoded() if self._pinned is not None else self._pinned_commit
        return {
            "place": self.place,
            "at": self.at,
            "max_staleness": self.max_staleness,
            "trace": self.trace,
            "pinned": pinned,
            "read_documents": dict(self.documents.read),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Repository.__init__(
            self,
            state["place"],
            at=state["at"],
            max_staleness=state["max_staleness"],
            trace=state["trace"],
        )
        self._pinned_commit = state["pinned"]
        self.documents = Documents(state["read_documents"])

    def __repr__(self) -> str:
        pinned = f", at={self.at!r}" if self.at is not None else ""
        return f"<Repository {self.place.name} branch={self.place.branch!r}{pinned}>"

    @property
    def tracer(self) -> Tracer | None:
        """What counts the operations on arrays; None if they are not to be counted, or the store has not been used yet."""
        return known_tracer(self.place) if self.trace else None

    @property
    def transaction(self) -> "Transaction | None":
        """The transaction that is open on this store in the caller's thread or task."""
        return _OPEN.get({}).get(self.place.identity)

    async def engine(self) -> Engine:
        """Return the engine of this store in this process."""
        return await engine_for(self.place)

    # -- what is seen ---------------------------------------------------------------------------------------------

    async def version(self) -> Version:
        """Return the version that this handle sees now."""
        engine = await self.engine()
        if self.at is not None:
            if self._pinned is None:
                if self._pinned_commit:
                    self._pinned = open_version(decode_commit(self._pinned_commit, name="pinned commit"))
                else:
                    self._pinned = await engine.resolve(self.at)
            return self._pinned
        listed_after = -1.0 if self._listed else self._made_at
        version = await engine.current(
            checked_after=max(self._made_at, now() - self.max_staleness), listed_after=listed_after
        )
        self._listed = True
        return version

    async def view(self) -> View:
        """Return what a read sees now: the open transaction, or a version."""
        transaction = self.transaction
        return transaction.staging.view if transaction is not None else View(version=await self.version())

    def pinned(self, version: Version) -> "Repository":
        """Return a handle that sees one version, which is open already, and nothing else."""
        at = version.number if self.at is None else self.at
        handle = Repository(self.place, at=at, trace=self.trace)
        handle._pinned = version
        return handle

    def view_at_hand(self) -> View | None:
        """Return what a read sees now, from any thread, if nothing need be asked of the storage; None otherwise."""
        transaction = self.transaction
        if transaction is not None:
            return transaction.staging.view
        if self.at is not None:
            return None if self._pinned is None else View(version=self._pinned)
        heads = known_heads(self.place)
        if heads is None or not self._listed:
            return None
        version = heads.known(checked_after=max(self._made_at, now() - self.max_staleness))
        return None if version is None else View(version=version)

    async def read(self, requests: Sequence[Request], view: View | None = None) -> list[Found | None]:
        """Read values, all of one version."""
        view = view or await self.view()
        found = await (await self.engine()).read(view, requests)
        self._note_read([request.key for request in requests], found)
        return found

    async def read_one(self, request: Request, view: View | None = None) -> Found | None:
        """Read one value, together with others that are asked for at the same time."""
        view = view or await self.view()
        found = await (await self.engine()).gatherer.read(view, request)
        self._note_read([request.key], [found])
        return found

    def _note_read(self, keys: Sequence[str], found: Sequence[Found | None]) -> None:
        transaction = self.transaction
        self.documents.note(keys, found, None if transaction is None else transaction.staging)

    async def locate(self, view: View, keys: Sequence[str]) -> list[Entry | None]:
        """Return where values are."""
        return await (await self.engine()).reader.locate(view, keys)

    async def read_entries(self, keys: Sequence[str], entries: Sequence[Entry | None]) -> list[Found | None]:
        """Read whole values that were located."""
        reader = (await self.engine()).reader
        return await reader.read_entries([None] * len(keys), entries, [Request(key) for key in keys])

    async def list_keys(self, prefix: str) -> list[tuple[str, Entry]]:
        """Return all keys below a prefix, with their entries."""
        engine = await self.engine()
        return [row async for row in listing.list_entries(engine.reader, await self.view(), prefix)]

    async def list_children(self, prefix: str) -> dict[str, Entry | None]:
        """Return what lies directly below a prefix: entries of keys, None for folders."""
        return await listing.list_children((await self.engine()).reader, await self.view(), prefix)

    async def is_empty(self, prefix: str) -> bool:
        """Return whether nothing lies below a prefix."""
        return await listing.is_empty((await self.engine()).reader, await self.view(), prefix)

    # -- what is written ------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise `ReadOnlyError` if the handle is pinned."""
        if self.at is not None:
            raise ReadOnlyError(
                f"{self.place.name}: opened at {self.at!r}, and a past version can't be written. "
                "Open the store without 'at' to write its newest version."
            )

    async def write(
        self,
        puts: Mapping[str, bytes] | None = None,
        *,
        deletes: Iterable[str] = (),
        clears: Iterable[str] = (),
    ) -> None:
        """Write, delete and clear in one commit, or into the open transaction."""
        staging = await self.begin()
        for prefix in clears:
            staging.clear(prefix)
        await self.stage(staging, puts or {}, deletes)
        await self.finish(staging)

    async def begin(self) -> Staging:
        """Begin to gather the writes of one call; inside a transaction this is its own."""
        engine = await self.engine()
        return self.gathered() or engine.stage(await engine.current(checked_after=-1.0))

    async def begin_reading(self) -> Staging:
        """Begin to gather the writes of a call that also reads: on top of a version that is not stale."""
        return self.gathered() or (await self.engine()).stage(await self.version())

    def gathered(self) -> Staging | None:
        """Return what the open transaction gathers, from any thread; None if there is none."""
        self.check_writable()
        transaction = self.transaction
        return None if transaction is None else transaction.staging

    async def begin_transaction(self, *, looks: bool = True) -> Staging:
        """Begin to gather the writes of many calls: on top of the newest version known, if it `looks` the newest there is."""
        engine = await self.engine()
        listed_after = -1.0 if self._listed else self._made_at
        version = await engine.current(checked_after=now() if looks else -1.0, listed_after=listed_after)
        self._listed = True
        return engine.stage(version)

    async def read_to_write(self, staging: Staging, keys: Sequence[str]) -> list[Found | None]:
        """Read values that will be written back changed: the write stands or falls with what was read."""
        found = await (await self.engine()).read(staging.view, [Request(key) for key in keys])
        for key, value in zip(keys, found, strict=True):
            staging.expect(key, 0 if value is None else value.generation)
        return found

    async def stage(
        self,
        staging: Staging,
        puts: Mapping[str, bytes],
        deletes: Iterable[str] = (),
        *,
        keep: Container[str] = (),
    ) -> None:
        """Add writes of one call; those of the keys `keep`, of which it changes a part, stay in memory for the next that does."""
        for key, data in puts.items():
            self.documents.expect(staging, check_key(key))
            await staging.put(key, data, keep=key in keep)
        for key in deletes:
            self.documents.expect(staging, check_key(key))
            staging.delete(key)
        if staging.hurries:
            await staging.send_ahead()

    async def finish(self, staging: Staging) -> None:
        """Commit the writes of one call; inside a transaction they wait for its end."""
        transaction = self.transaction
        if transaction is not None and transaction.staging is staging:
            transaction.touched.add(self)
            return
        await self.commit(staging)

    async def commit(self, staging: Staging, **described: Any) -> Version:
        """Commit what was gathered."""
        changes: Changes = staging.changes(**described)
        if not changes.delta:
            return staging.version
        try:
            version = await (await self.engine()).commit(changes)
        except BaseException:
            await staging.discard()  # packs may still be on their way
            raise
        self.documents.note_written(staging, version)
        return version

    async def history(self) -> list[Commit]:
        """Return the commits of the branch, the newest first."""
        return [commit async for commit in (await self.engine()).history()]


class Transaction:
    """Many calls, one commit. Use it as a context manager; an exception inside discards everything.

    It belongs to the thread or task that opened it: writes by others through the same handle stay outside. What is
    written inside is visible inside at once. Packs are uploaded as they fill, so it may be larger than memory.

    Parameters
    ----------
    repository
        The handle to write through.
    message
        Why; kept in the history.
    author
        Who; by default the user of this process.
    automatic
        Whether it counts as a single call, whose commit may be dropped from the history later.
    """

    def __init__(
        self, repository: Repository, *, message: str = "", author: str = "", automatic: bool = False
    ) -> None:
        self._repository = repository
        self._message = message
        self._author = author
        self._automatic = automatic
        self.looks = True
        """Whether it looks for the newest version before it begins, or it would conflict needlessly."""
        self._staging: Staging | None = None
        self._token: contextvars.Token[Mapping[str, Transaction]] | None = None
        self.touched: set[Repository] = set()
        self.last: dict[str, Callable[[], None]] = {}
        """Called at the end of the ``with``, before the commit; one for each name."""
        self.number: int | None = None
        """Number of the commit, once there is one."""

    @property
    def staging(self) -> Staging:
        """What was written so far."""
        if self._staging is None:
            raise TransactionError(
                f"{self._repository.place.name}: the transaction is not open; use it in a 'with'."
            )
        return self._staging

    def __enter__(self) -> Self:
        repository = self._repository
        repository.check_writable()
        if repository.transaction is not None:
            raise TransactionError(
                f"{repository.place.name}: a transaction is open here already; they do not nest."
            )
        self._staging = run_sync(repository.begin_transaction(looks=self.looks))
        self._token = _OPEN.set({**_OPEN.get({}), repository.place.identity: self})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        staging = self.staging
        if kind is not None:
            self._leave()
            run_sync(staging.discard())
            return
        try:
            for last in self.last.values():
                last()
        except BaseException:
            self._leave()
            run_sync(staging.discard())
            raise
        self._leave()
        repository = self._repository
        version = run_sync(
            repository.commit(staging, message=self._message, author=self._author, automatic=self._automatic)
        )
        self.number = version.number
        for other in self.touched - {repository}:
            other.documents.note_written(staging, version)

    def _leave(self) -> None:
        assert self._token is not None
        _OPEN.reset(self._token)
        for handle in {self._repository, *self.touched}:
            handle.documents.note_end(self.staging)
        self._staging = None

    def __reduce__(self) -> str:
        raise TransactionError("An open transaction can't be pickled; commit it first.")


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
