"""An example of a plugin: which codec suits integers that change little from one to the next?"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from zarrvec.codecs.registry import Candidate

__all__ = ["offer"]


def offer(dtype: np.dtype[Any], chunk_shape: tuple[int, ...]) -> Iterator[Candidate]:
    """Yield the differences of neighbours, shuffled and compressed by zstd, for integers of 2 to 8 bytes in this machine's order.

    Neighbours are those of a chunk in C order, so its last axis of more than 1 should be the one along which values change little.

    Examples
    --------
    >>> [candidate.name for candidate in offer(np.dtype("int64"), (1000,))]
    ['delta-zstd']
    >>> list(offer(np.dtype("float32"), (1000,)))
    []
    """
    if (
        dtype.kind not in "iu"
        or dtype.itemsize == 1
        or not dtype.isnative
        or max(chunk_shape, default=1) == 1
    ):
        return
    blosc = {"cname": "zstd", "clevel": 5, "blocksize": 0}
    yield Candidate(
        name="delta-zstd",
        filters=({"name": "numcodecs.delta", "configuration": {"dtype": dtype.str}},),
        compressors=(
            {"name": "blosc", "configuration": {**blosc, "shuffle": "shuffle", "typesize": dtype.itemsize}},
        ),
        in_format_2=True,
        filters_2=({"id": "delta", "dtype": dtype.str},),
        compressor_2={"id": "blosc", **blosc, "shuffle": 1},
    )
