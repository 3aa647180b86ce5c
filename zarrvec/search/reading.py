"""How are single rows of an array, and of the arrays beside it, read by few requests?"""

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.types import AnyArray

from zarrvec.errors import OptionError, SearchError

Int64 = npt.NDArray[np.int64]


def read_rows(array: AnyArray, ids: Int64, axes: int) -> npt.NDArray[Any]:
    """Read rows by their ids, each chunk once.

    Parameters
    ----------
    array
        Of any shape with at least `axes` axes.
    ids
        (...,) rows in C order over the first `axes` axes, in any order, repeated or not.
    axes
        How many axes the ids count.

    Returns
    -------
    (..., *rest) in the dtype of the array.

    Examples
    --------
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=np.arange(12).reshape(2, 3, 2), chunks=(1, 2, 2))
    >>> read_rows(array, np.array([[4, 0], [4, 5]]), 2).tolist()
    [[[8, 9], [0, 1]], [[8, 9], [10, 11]]]
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    leading, rest = array.shape[:axes], array.shape[axes:]
    if not unique.size:
        return np.empty((*ids.shape, *rest), dtype=array.dtype)
    if axes == 1:
        values: Any = array.oindex[(unique, *[slice(None)] * len(rest))]
    else:
        places = np.unravel_index(unique, leading)
        shape = (len(unique), *[1] * len(rest))
        inner = [
            np.arange(length).reshape([1, *[1] * axis, length, *[1] * (len(rest) - axis - 1)])
            for axis, length in enumerate(rest)
        ]
        values = array.vindex[(*(place.reshape(shape) for place in places), *inner)]
    rows: npt.NDArray[Any] = np.asarray(values)[inverse.reshape(ids.shape)]
    return rows


def sibling(array: AnyArray, name: str) -> AnyArray:
    """Open an array of the same group, whose leading axes count the same rows.

    Raises
    ------
    OptionError
        If there is none, or it has other rows.

    Examples
    --------
    >>> group = zarr.create_group(zarr.storage.MemoryStore())
    >>> vectors = group.create_array("emb", shape=(3, 4), dtype="f4")
    >>> _ = group.create_array("year", data=np.array([1990, 2000, 2010]))
    >>> sibling(vectors, "year")[:].tolist()
    [1990, 2000, 2010]
    """
    place = array.store_path
    folder = place.path.rpartition("/")[0]
    path = f"{folder}/{name}" if folder else name
    leading = array.shape[:-1]
    missing = OptionError(
        f"{name!r}: there is no array {path!r} beside {place.path!r}; expected the name of one whose first axes are {leading}"
    )
    if not {".", ".."}.isdisjoint(name.split("/")):  # zarr refuses such paths
        raise missing
    try:
        found = zarr.open_array(place.store, path=path, mode="r")
    except (FileNotFoundError, zarr.errors.ContainsGroupError, zarr.errors.NodeTypeValidationError) as error:
        raise missing from error
    if found.shape[: len(leading)] != leading:
        raise OptionError(
            f"{name!r}: array {path!r} has the shape {found.shape}, expected one that begins with {leading}, the rows of "
            f"{place.path!r}"
        )
    return found


class Siblings:
    """The columns beside an array, read when they are asked for: what a callable ``where`` is given.

    Parameters
    ----------
    array
        The vectors.

    Examples
    --------
    >>> group = zarr.create_group(zarr.storage.MemoryStore())
    >>> vectors = group.create_array("emb", shape=(3, 4), dtype="f4")
    >>> _ = group.create_array("year", data=np.array([1990, 2000, 2010]))
    >>> (Siblings(vectors)["year"] >= 2000).tolist()
    [False, True, True]
    """

    __slots__ = ("_array", "_read")

    def __init__(self, array: AnyArray) -> None:
        self._array = array
        self._read: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Return a whole column, of the leading shape of the vectors (and its own further axes).

        Raises
        ------
        SearchError
            If it is not asked for by name.
        """
        if not isinstance(name, str):
            raise SearchError(
                f"where asks for beside[{name!r}]: expected the name of an array beside this one"
            )
        if name not in self._read:
            self._read[name] = np.asarray(sibling(self._array, name)[...])
        return self._read[name]


def evaluated(where: object, array: AnyArray) -> object:
    """Return what a callable ``where`` makes of the arrays beside; any other as it is.

    Raises
    ------
    SearchError
        If the callable returns nothing.

    Examples
    --------
    >>> group = zarr.create_group(zarr.storage.MemoryStore())
    >>> vectors = group.create_array("emb", shape=(3, 4), dtype="f4")
    >>> _ = group.create_array("year", data=np.array([1990, 2000, 2010]))
    >>> evaluated(lambda beside: beside["year"] < 2000, vectors).tolist(), evaluated([1, 2], vectors)
    ([True, False, False], [1, 2])
    """
    if not callable(where) or hasattr(where, "__array__"):
        return where
    chosen: object = where(Siblings(array))
    if chosen is None:
        raise SearchError(
            f"where={where!r} returned None: expected booleans, ids or a slice of ids; is a `return` missing? Leave where "
            "out to search all rows"
        )
    return chosen
