"""How do threads count the operations on one store together?

A trace belongs to an engine: handles with equal places share it, and a forked child begins with an empty one.
"""

import threading

from zarrvec.layout.trace import Batch, Counts, Kind, Position, Tally, describe


class Tracer:
    """Counts the operations on one store."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._lock = threading.Lock()

    def note(
        self,
        kind: Kind,
        array: str,
        batch: Batch,
        ends: tuple[Position, Position],
        lengths: Position,
        dropped: Position,
    ) -> None:
        """Count one operation on an array; the other parameters are those of `zarrvec.layout.trace.describe`."""
        try:
            shape, counts = describe(kind, batch, ends, lengths, dropped)
        except (TypeError, ValueError, AttributeError, RuntimeError):
            # what zarr's indexers give is not specified: no read fails because it can't be counted
            shape, counts = None, Counts(operations=1, boxes=1, chunks=len(batch))
        with self._lock:
            self._tally.note(array, shape, counts)

    def take(self, *, reset: bool = False) -> Tally:
        """Return a copy of what was counted; with `reset`, counting begins anew."""
        taken = Tally()
        with self._lock:
            taken.add(self._tally)
            if reset:
                self._tally = Tally()
        return taken
