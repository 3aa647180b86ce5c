"""Which indexes of shards are kept in memory, and for how long are they believed?

An index whose storage names the state of a shard (an ETag, a file's inode and times) is checked by every read that it leads
to, and kept however long. Of other storages nobody can tell whether another process wrote the shard anew, and bytes read by
an old index would be garbage; there it is believed for as many seconds as the user says, 0 unless told otherwise.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

from zarr.core.config import config

from zarrvec.codecs.shard_index import ShardIndex
from zarrvec.engine.bridge import call_after_fork
from zarrvec.errors import OptionError

SECONDS_OPTION: Final = "zarrvec.shard.index_seconds"
"""In zarr's configuration: how long an index is believed that the storage can't vouch for."""
BYTES_OPTION: Final = "zarrvec.shard.index_bytes"
"""In zarr's configuration: bound on all indexes kept, for all threads and arrays of the process."""
DEFAULT_SECONDS: Final = 0.0
DEFAULT_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 500  # of the objects around an index


class IndexCache:
    """Indexes of shards, those used longest ago going first; every method may be called by many threads.

    Parameters
    ----------
    now
        A clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[ShardIndex, float]] = OrderedDict()
        self.bytes_held = 0
        """Bytes of all that is held."""
        call_after_fork(self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self.clear()  # another thread may have been in the middle of a change

    def get(self, shard: Hashable) -> ShardIndex | None:
        """Return the index of a shard, unless it is too old to be believed."""
        with self._lock:
            held = self._held.get(shard)
            if held is None:
                return None
            index, since = held
            if index.version is None and self._now() - since >= option(SECONDS_OPTION, DEFAULT_SECONDS):
                self._drop(shard)
                return None
            self._held.move_to_end(shard)
            return index

    def put(self, shard: Hashable, index: ShardIndex) -> None:
        """Keep the index of a shard, if it could be believed later."""
        limit = option(BYTES_OPTION, DEFAULT_BYTES)
        believed = index.version is not None or option(SECONDS_OPTION, DEFAULT_SECONDS) > 0
        with self._lock:
            self._drop(shard)
            if believed and _size(index) <= limit:
                self._held[shard] = index, self._now()
                self.bytes_held += _size(index)
            while self.bytes_held > limit:
                self._drop(next(iter(self._held)))

    def drop(self, shard: Hashable) -> None:
        """Forget the index of a shard that was written."""
        with self._lock:
            self._drop(shard)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._held.clear()
            self.bytes_held = 0

    def _drop(self, shard: Hashable) -> None:
        index, _ = self._held.pop(shard, (None, 0.0))
        if index is not None:
            self.bytes_held -= _size(index)


def _size(index: ShardIndex) -> int:
    return index.entries.nbytes + _ENTRY_BYTES


def option(name: str, default: float) -> float:
    """Return a number from zarr's configuration.

    Raises
    ------
    OptionError
        If it is not a number of 0 or more.
    """
    value: Any = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise OptionError(f"{name}={value!r} in zarr's configuration: expected a number of 0 or more")
    return value


INDEXES: Final = IndexCache()
"""Indexes of shards that this process has read."""
