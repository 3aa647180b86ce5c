"""Which bytes are a row of the table of lists?

Pure: bytes to values and back. Source: ``specs/vector-index.md``, section "Lists".
"""

from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numcodecs import zstd

from zarrvec.errors import CorruptError
from zarrvec.format.envelope import unpack_frame
from zarrvec.search.records import LIST_HEAD, Layout

PACKED_LEVEL: Final = 1
"""Of zstd, for the table of lists: higher ones look for what repeats, and make it longer."""
MAX_PACKED_BYTES: Final = 64 << 20
"""A longer table of lists is not compressed: one that claims to be is refused before memory is taken."""
SHARED_HEAD: Final = np.dtype(
    [
        ("list", "<u4"),  # number of the list, whose centroid stands in the first segment
        ("count", "<u4"),
        ("crc_head", "<u4"),
        ("crc_low", "<u4"),
        ("radius", "<f4"),
    ]
)
"""A row of the table of a later segment, which leaves empty lists out; 20 bytes."""


class ListTable(NamedTuple):
    """What is known of each list, in the order in which they are stored."""

    heads: npt.NDArray[Any]
    """(nlist,) of `LIST_HEAD`."""
    centroids: npt.NDArray[np.int8]
    """(nlist, d) int8, to be multiplied with ``heads["scale"]``."""

    @classmethod
    def decode(cls, data: bytes | memoryview | npt.NDArray[np.uint8], layout: Layout, *, name: str) -> Self:
        """Read rows of the table.

        Raises
        ------
        CorruptError
            If they can't be rows of one.
        """
        given = np.frombuffer(data, dtype=np.uint8)
        if given.size % layout.list_bytes:
            raise CorruptError(
                f"{name}: {given.size} bytes are no whole rows of {layout.list_bytes}; rebuild the index."
            )
        table = given.reshape(-1, layout.list_bytes)
        heads = np.ascontiguousarray(table[:, : LIST_HEAD.itemsize]).view(LIST_HEAD)[:, 0]
        if not np.isfinite(heads["scale"]).all():
            raise CorruptError(f"{name}: the scale of a centroid is not finite; rebuild the index.")
        return cls(heads, table[:, LIST_HEAD.itemsize :].view(np.int8))

    def encode(self) -> npt.NDArray[np.uint8]:
        """Return the (nlist, list_bytes) uint8 rows."""
        heads = np.ascontiguousarray(self.heads, dtype=LIST_HEAD).view(np.uint8)
        return np.concatenate(
            [heads.reshape(len(self.heads), LIST_HEAD.itemsize), self.centroids.view(np.uint8)], axis=1
        )

    def vectors(self) -> npt.NDArray[np.float32]:
        """Return the (nlist, d) float32 centroids."""
        vectors = self.centroids.astype(np.float32)
        vectors *= self.heads["scale"][:, None]
        return vectors


def pack_rows(rows: npt.NDArray[np.uint8]) -> bytes:
    """Return the rows of a table in a zstd frame, column after column: bytes of one kind lie together.

    Examples
    --------
    >>> rows = np.arange(12, dtype="u1").reshape(4, 3)
    >>> unpack_rows(pack_rows(rows), 4, 3, name="here").tolist()
    [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    """
    return bytes(zstd.compress(np.ascontiguousarray(rows.T), PACKED_LEVEL))


def unpack_rows(frame: bytes | memoryview, count: int, row_bytes: int, *, name: str) -> npt.NDArray[np.uint8]:
    """Return the (count, row_bytes) uint8 rows that a frame holds.

    Raises
    ------
    CorruptError
        If it holds anything else.
    """
    try:
        columns = np.frombuffer(unpack_frame(frame, count * row_bytes, name=name), dtype=np.uint8)
    except CorruptError as error:
        raise CorruptError(f"{error} Rebuild the index: array.vec.build_index().") from error
    return np.ascontiguousarray(columns.reshape(row_bytes, count).T)
