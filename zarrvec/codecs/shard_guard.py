"""Who writes a shard just now? One writer at a time in a process, and readers who can tell that one was there.

A write of a part of a shard reads it, changes it and writes all of it, so two at once would lose one of both. Threads,
tasks and event loops of one process take turns here; other processes don't know of it.
"""

import asyncio
import contextlib
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from zarrvec.engine.bridge import call_after_fork


class ShardGuard:
    """The turn to write one shard.

    It is waited for in event loops and, where zarr's pipeline is synchronous, in threads.
    """

    __slots__ = ("__weakref__", "_changes", "_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._changes = 0
        self._waiting: deque[Future[None]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, *, changes: bool) -> AsyncIterator[None]:
        """Wait for the turn in an event loop; `changes` says whether the shard may be another one afterwards."""
        ticket = self._enter()
        if ticket is not None:
            try:
                await asyncio.wrap_future(ticket)
            except BaseException:
                if not ticket.cancel():  # the turn came as the waiting was given up
                    self._leave(changes=False)
                raise
        try:
            yield
        finally:
            self._leave(changes=changes)

    @contextlib.contextmanager
    def turn_sync(self) -> Iterator[None]:
        """Wait in a thread for the turn to write."""
        ticket = self._enter()
        if ticket is not None:
            ticket.result()
        try:
            yield
        finally:
            self._leave(changes=True)

    def seen(self) -> int | None:
        """Return a number that changes with the shard; None while somebody has the turn."""
        with _State.lock:
            return None if self._held else self._changes

    def unless_changed(self, seen: int | None, act: Callable[[], None] = lambda: None) -> bool:
        """Do something that is short, unless somebody had the turn since; return whether it was done."""
        with _State.lock:
            if seen is None or self._held or self._changes != seen:
                return False
            act()
            return True

    def _enter(self) -> Future[None] | None:
        with _State.lock:
            if not self._held:
                self._held = True
                return None
            ticket: Future[None] = Future()
            self._waiting.append(ticket)
            return ticket

    def _leave(self, *, changes: bool) -> None:
        with _State.lock:
            self._changes += changes
            while self._waiting:
                ticket = self._waiting.popleft()
                if ticket.set_running_or_notify_cancel():
                    ticket.set_result(None)
                    return
            self._held = False


class _State:
    """What a forked child starts anew: threads of its parent held locks that nobody will release."""

    lock = threading.RLock()
    guards: weakref.WeakValueDictionary[Hashable, ShardGuard] = weakref.WeakValueDictionary()  # noqa: RUF012
    numbers: dict[int, tuple[weakref.ref[Any], int]] = {}  # noqa: RUF012 - one per process, on purpose
    counter = itertools.count()

    @classmethod
    def after_fork(cls) -> None:
        cls.lock = threading.RLock()
        cls.guards = weakref.WeakValueDictionary()


call_after_fork(_State.after_fork)


def guard_of(shard: Hashable) -> ShardGuard:
    """Return the guard of a shard, the same for all who hold it at one time."""
    with _State.lock:
        guard = _State.guards.get(shard)
        if guard is None:
            guard = _State.guards[shard] = ShardGuard()
        return guard


def name_of_store(store: Store) -> Hashable:
    """Return a name that stores share which are the same place; of stores it doesn't know each has its own."""
    if type(store) is LocalStore:
        return "local", os.path.realpath(store.root)
    if type(store) is FsspecStore:
        return "fsspec", type(store.fs), hash(store.fs), store.path
    if type(store) is MemoryStore:
        return "memory", id(store._store_dict)
    return "other", _number_of(store.store if type(store) is ObjectStore else store)


def _number_of(thing: Any) -> int:
    """Return a number for an object that no other one gets, even after its end."""
    with _State.lock:
        found = _State.numbers.get(id(thing))
        if found is not None and found[0]() is thing:
            return found[1]
        for key in [key for key, (reference, _) in _State.numbers.items() if reference() is None]:
            del _State.numbers[key]
        number = next(_State.counter)
        _State.numbers[id(thing)] = weakref.ref(thing), number
        return number
