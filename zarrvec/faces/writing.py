"""What can be written besides what zarr does: transactions and appends."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zarr

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.engine import known_heads
from zarrvec.engine.outcomes import StaleError
from zarrvec.engine.staging import AHEAD_BYTES
from zarrvec.engine.version import Version
from zarrvec.errors import ConflictError
from zarrvec.faces.pipeline import REDO_LIMIT
from zarrvec.faces.targets import repository_and_key, repository_of
from zarrvec.repository import Repository, Transaction

T = TypeVar("T")


def transaction(target: Any, message: str = "", *, author: str = "") -> Transaction:
    """Make many calls one commit.

    Parameters
    ----------
    target
        A zarr group, array or store on a zarrvec store, or its URL.
    message
        Why; kept in the history.
    author
        Who; by default the user of this process.

    Returns
    -------
    Transaction
        To be used in a ``with``. It belongs to the thread or task that opens it.

    Raises
    ------
    ConflictError
        At the end, if others changed what was read and written here; nothing landed.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = zarr.open_group(f"zarrvec://{folder}/data.zarr", mode="a")
    ...     with zarrvec.transaction(root, message="first import"):
    ...         a = root.create_array("a", data=np.array([1, 2, 3]))
    ...         b = root.create_array("b", data=np.array([4, 5, 6]))
    ...     [commit.message for commit in zarrvec.history(root)][0]
    'first import'
    """
    return Transaction(repository_of(target)[0], message=message, author=author)


def append(array: zarr.Array[Any], data: npt.ArrayLike, axis: int = 0) -> tuple[int, ...]:
    """Append data to an array in one commit; of two that append at the same time both land, one after the other.

    Parameters
    ----------
    array
        An array on a zarrvec store; it sees the new shape afterwards.
    data
        Of the array's shape, except along `axis`.
    axis
        Along which the array grows.

    Returns
    -------
    tuple of int
        The new shape.

    Raises
    ------
    ConflictError
        If others appended so often meanwhile that it did not succeed.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"zarrvec://{folder}/data.zarr", shape=(0, 4), chunks=(10, 4), dtype="i4")
    ...     zarrvec.append(array, [[1, 2, 3, 4]])
    (1, 4)
    """
    repository_of(array)
    values = np.asarray(data)
    return commit_once(array, lambda: append_once(array, values, axis), is_short=True)


def commit_once(target: Any, function: Callable[[], T], *, is_short: bool = False) -> T:
    """Call a function whose writes are one commit, again as long as others change meanwhile what it reads.

    In an open transaction its writes are part of that. On a store that isn't ours it is just called. If nothing is committed,
    an array has the shape that it had.

    Parameters
    ----------
    target
        Of the store.
    function
        What to call.
    is_short
        Whether it is soon done again: then no newer commit is looked for first while nobody else seems to commit.

    Raises
    ------
    ConflictError
        If others were faster each time.
    """
    if repository_and_key(target.store_path.store, target.store_path.path) is None:
        return function()
    repository, _ = repository_of(target)
    if repository.transaction is not None:
        return function()
    shape, has_landed = _shape_of(target), False
    try:
        for trial in range(REDO_LIMIT):
            heads = known_heads(repository.place)
            hopes = is_short and not trial and heads is not None and heads.is_alone()
            transaction = Transaction(repository, automatic=True)
            transaction.looks = not hopes
            try:
                with transaction:
                    result = _call(function, repository, transaction if hopes else None)
            except ConflictError as error:  # nothing has landed
                if not hopes and not isinstance(error, StaleError):
                    raise
                run_sync(_newest(repository))
            else:
                has_landed = True
                return result
    finally:
        if not has_landed:
            _take_shape(target, shape)
    raise ConflictError(
        f"{target.store_path}: others changed it {REDO_LIMIT} times meanwhile; let fewer write at once."
    )


def _call(function: Callable[[], T], repository: Repository, hoping: Transaction | None) -> T:
    """Call a function; what it raises on a version that was hoped to be the newest counts only if it was."""
    try:
        return function()
    except StaleError:
        raise
    except Exception as error:
        if hoping is None or run_sync(_newest(repository)).number == hoping.staging.version.number:
            raise
        raise StaleError("Another writer has committed meanwhile.") from error


def newest_of(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Open an array anew, as it is by now."""
    place = array.store_path
    return zarr.open_array(place.store, path=place.path, mode="r+", zarr_format=array.metadata.zarr_format)


def append_once(
    array: zarr.Array[Any], values: npt.NDArray[Any], axis: int, newest: zarr.Array[Any] | None = None
) -> tuple[int, ...]:
    """Append in the newest version, as a part of a commit; the array sees the new shape afterwards.

    Parameters
    ----------
    newest
        The array as `newest_of` returned it, if that was asked already.
    """
    newest = newest_of(array) if newest is None else newest
    # of no rows zarr would write the shape all the same, over what others make of it
    if values.shape != (*newest.shape[:axis], 0, *newest.shape[axis + 1 :]):
        newest.append(values, axis=axis)
    _take_shape(array, _shape_of(newest))
    shape: tuple[int, ...] = newest.shape
    return shape


def _shape_of(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return what a handle knows of its array that changes with the shape."""
    known = array.async_array
    return {name: getattr(known, name) for name in ("metadata", "_chunk_grid") if hasattr(known, name)}


def _take_shape(array: zarr.Array[Any], shape: dict[str, Any]) -> None:
    for name, value in shape.items():
        object.__setattr__(array.async_array, name, value)


@contextlib.contextmanager
def sending_ahead(array: zarr.Array[Any]) -> Iterator[None]:
    """Upload what is written in the open transaction as soon as it is, if that is much: something slow comes before its end."""
    found = repository_and_key(array.store_path.store, array.store_path.path)
    staging = None if found is None else found[0].gathered()
    if staging is None:
        yield
        return
    staging.hurries = True
    try:
        yield
    finally:
        staging.hurries = False


async def begin_to_send(repository: Repository, least: int = AHEAD_BYTES) -> None:
    """Begin to upload what was written in the open transaction, if there is one and that is so many bytes."""
    if repository.transaction is not None:
        await repository.transaction.staging.send_ahead(least)


async def _newest(repository: Repository) -> Version:
    return await (await repository.engine()).heads.newest()
