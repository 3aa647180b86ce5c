"""Which values go into which pack?

Source: ``specs/format.md``, section "Pack".
"""

from collections.abc import Sequence
from typing import Final

from zarrvec.format.table import CRC_BYTES

PACK_BYTES: Final = 16 << 20
"""Target size of a pack."""


def split_values(lengths: Sequence[int], pack_bytes: int) -> list[tuple[int, int]]:
    """Cut a sequence of values into packs, as half-open runs of rows.

    A pack is closed before it would grow beyond `pack_bytes`; a value larger than that has a pack of its own.

    Examples
    --------
    >>> split_values([4, 4, 4, 100, 1], pack_bytes=17)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    runs: list[tuple[int, int]] = []
    start = size = 0
    for row, length in enumerate(lengths):
        stored = length + CRC_BYTES
        if row > start and size + stored > pack_bytes:
            runs.append((start, row))
            start, size = row, 0
        size += stored
    if start < len(lengths):
        runs.append((start, len(lengths)))
    return runs
