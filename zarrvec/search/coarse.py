"""How do centroids lie in memory for compiled code?"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from zarrvec.search._numpy_kernels import GLANCE, MIDDLE, UNIT
from zarrvec.search.records import CODE_ZERO, planes_of

_EASY_BYTES: Final = 1 << 20
"""Centroids of so many bytes stay in the cache of a processor beside lists that are scanned; of more only high planes are read."""
_MOST_OF_ZEROS: Final = 0.5
"""Part of what is rounded away (of its square) that may belong to numbers that become 0. Where it is more, a few numbers of a centroid
are so large that the others are lost: these then point where the centroid does, and how far off a product is is no matter of chance."""
_ALL_LOST: Final = np.float32(1e30)
"""Of centroids whose rough products say nothing: they are multiplied as they are."""
_PAGE_BYTES: Final = 2 << 20
"""Of a large page. For allocations of two of them numpy asks the system for such."""
_LINE_BYTES: Final = 64
"""Of the cache of a processor."""

Float32 = npt.NDArray[np.float32]


class Coarse(NamedTuple):
    """Centroids as compiled code takes them. Make it with `of`."""

    codes: npt.NDArray[np.int8]
    """(nlist, d) int8."""
    high: npt.NDArray[np.uint8]
    """(nlist, ceil(d / 2)) uint8: their high planes, as those of entries; rounded if there are no low planes."""
    low: npt.NDArray[np.uint8]
    """(nlist, ceil(d / 2)) uint8: their low planes; (0, ceil(d / 2)) if there are so many lists that time goes by memory."""
    scales: Float32
    """(n,) float32: what they are multiplied with; n, here and below, is nlist up to a multiple of 16."""
    squares: Float32
    """(n,) float32: squared lengths of the centroids, infinite beyond them."""
    bias: Float32
    """(n,) float32: what is added to ``-2 * products`` for the order of the lists, times a factor; infinite beyond."""
    lost: Float32
    """(n,) float32: length of what was rounded away; more than any length where rough products say nothing."""

    @classmethod
    def of(cls, codes: npt.NDArray[np.int8], scales: Float32, squares: Float32, bias: Float32) -> Self:
        """Take (nlist, d) int8 centroids, and (nlist,) of all else."""
        count, width = codes.shape
        lengths = np.sqrt(width * squares)
        if codes.nbytes <= _EASY_BYTES:
            lost = lengths / 2**15  # of int16 queries
            high, low = planes_of(codes.view(np.uint8) ^ np.uint8(CODE_ZERO))
        else:
            rounded = (codes.astype(np.int16) + (MIDDLE * UNIT + UNIT // 2)) // UNIT
            left = codes - (rounded - MIDDLE) * UNIT
            left_squares = np.einsum("ij,ij->i", left, left, dtype=np.int32)
            left *= rounded == MIDDLE
            of_zeros = np.einsum("ij,ij->i", left, left, dtype=np.int32)
            lost = scales * np.sqrt(left_squares) + lengths / 2**11
            lost[of_zeros > _MOST_OF_ZEROS * left_squares] = _ALL_LOST
            high = planes_of((rounded * 16).astype(np.uint8))[0]
            low = high[:0]
        columns = []
        for column, beyond in ((scales, 0), (squares, np.inf), (bias, np.inf), (lost, 0)):
            columns.append(np.full(-(-count // GLANCE) * GLANCE, beyond, dtype=np.float32))
            columns[-1][:count] = column
        parts = [plain(codes, np.int8), high, low, *columns]
        return cls(*(_in_large_pages(parts) if codes.nbytes > _EASY_BYTES else parts))


def _in_large_pages(arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Copy arrays to one piece of memory, so long that numpy asks for large pages: translations of many small ones are not kept."""
    starts = np.cumsum([0, *(-(-array.nbytes // _LINE_BYTES) * _LINE_BYTES for array in arrays)])
    memory = np.empty(-(-starts[-1] // _PAGE_BYTES) * _PAGE_BYTES + _PAGE_BYTES, dtype=np.uint8)
    starts += -memory.ctypes.data % _PAGE_BYTES
    copies = []
    for start, array in zip(starts.tolist(), arrays, strict=False):
        copies.append(memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape))
        copies[-1][...] = array
    return copies


def plain(array: npt.NDArray[Any], dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """Return an array as numba takes it: anything else, even one that is read-only, has it compile all anew."""
    array = np.ascontiguousarray(array, dtype=dtype)
    return array if array.flags.carray else array.copy()
