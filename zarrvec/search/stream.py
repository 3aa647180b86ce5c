"""How do the rows of an array go by, block after block, while the next block is being read?"""

import contextvars
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.blocks import Block


def stream_blocks(
    array: AnyArray, blocks: Iterable[Block]
) -> Generator[tuple[Block, npt.NDArray[Any]], None, None]:
    """Yield each block and its (n, d) rows while a thread reads the next one.

    Examples
    --------
    >>> import zarr
    >>> from zarrvec.search.blocks import grid_of, plan_blocks
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=np.eye(3, dtype="f4"), chunks=(2, 3))
    >>> plan = plan_blocks(grid_of(array), block_bytes=24)
    >>> [(block.rows, len(rows)) for block, rows in stream_blocks(array, plan)]
    [(slice(0, 2, None), 2), (slice(2, 3, None), 1)]
    """
    waiting: tuple[Block, Future[npt.NDArray[Any]]] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="zarrvec-search") as pool:
        for block in blocks:
            done = None if waiting is None else (waiting[0], waiting[1].result())
            waiting = (block, pool.submit(contextvars.copy_context().run, _read, array, block))
            if done is not None:
                yield done
                del done
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _read(array: AnyArray, block: Block) -> npt.NDArray[Any]:
    selection: tuple[Any, ...] = (block.rows, *block.rest, slice(None))
    values: Any = array[selection] if isinstance(block.rows, slice) else array.oindex[selection]
    return np.asarray(values).reshape(-1, array.shape[-1])
