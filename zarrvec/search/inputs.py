"""Which arrays, queries and selections can be searched, and what they mean."""

import math
import operator
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.errors import OptionError, SearchError
from zarrvec.search.metrics import Metric, check_metric

DEFAULT_METRIC: Final[Metric] = "cosine"
_DTYPES: Final = ("float16", "float32", "float64", "int8", "uint8")


def check_array(array: AnyArray) -> None:
    """Raise if the array does not hold vectors on its last axis.

    Raises
    ------
    SearchError
        If it has fewer than two axes, vectors of width 0, or a dtype other than float16, 32, 64, int8, uint8.
    """
    if array.ndim <= 1:
        raise SearchError(
            f"array of shape {array.shape} holds no rows of vectors: expected (n, d) or more leading axes with the vector "
            "on the last; give a single vector a leading axis of length 1"
        )
    if array.shape[-1] == 0:
        raise SearchError(
            f"array of shape {array.shape} holds vectors of width 0: expected at least 1 component"
        )
    if np.dtype(array.dtype).name not in _DTYPES:
        raise SearchError(
            f"array of dtype {array.dtype} can't be searched: expected {', '.join(_DTYPES)}; convert it first"
        )


def as_k(k: object) -> int:
    """Return k as a positive int.

    Raises
    ------
    SearchError
        If it is no integer or less than 1.
    """
    try:
        number = operator.index(None if isinstance(k, bool) else k)  # type: ignore[arg-type]
    except TypeError as error:
        raise SearchError(f"k={k!r} is no integer: expected the number of hits, at least 1") from error
    if number < 1:
        raise SearchError(f"k={number} asks for no hits: expected at least 1")
    return number


def is_integer(value: object) -> bool:
    """Return whether a value is an integer, of Python's or numpy's, and no boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a real number, of Python's or numpy's, and no boolean."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_memory(memory_bytes: object, least: int = 1) -> int:
    """Return a bound on memory in bytes.

    Raises
    ------
    OptionError
        If it is no integer or too small.
    """
    if not isinstance(memory_bytes, int | np.integer) or isinstance(memory_bytes, bool):
        raise OptionError(f"memory_bytes={memory_bytes!r} is no integer: expected bytes, at least {least}")
    if memory_bytes < least:
        raise OptionError(
            f"memory_bytes={memory_bytes}: expected at least {least}; 64 MiB and more are useful"
        )
    return int(memory_bytes)


def as_queries(queries: npt.ArrayLike, width: int) -> tuple[npt.NDArray[np.float64], bool]:
    """Return the queries as (q, d) float64, and whether it was a single one of shape (d,).

    Raises
    ------
    SearchError
        If they are masked or not real numbers, not 1-D or 2-D, of another width, or not finite.

    Examples
    --------
    >>> as_queries([1, 2], 2)
    (array([[1., 2.]]), True)
    """
    _check_unmasked("queries are", queries)
    try:
        given = np.asarray(queries)
    except ValueError as error:
        raise SearchError("queries differ in width: expected (d,) or (q, d)") from error
    if given.dtype.kind not in "fiub" and given.size:
        raise SearchError(f"queries of dtype {given.dtype} are not real numbers: expected floats or integers")
    if given.ndim not in (1, 2):
        raise SearchError(
            f"queries of shape {given.shape}: expected one of shape (d,) or a batch of shape (q, d)"
        )
    if given.shape[-1] != width:
        raise SearchError(
            f"queries of shape {given.shape} have width {given.shape[-1]}, but the vectors of the array have width {width}"
        )
    with np.errstate(over="ignore") if given.dtype == np.longdouble else nullcontext():
        batch = np.array(given.reshape(-1, width), dtype=np.float64)
    # one sum is faster; squares of finite numbers may overflow, but such numbers are rare. By einsum, for BLAS wakes threads
    if not math.isfinite(np.einsum("ij,ij->", batch, batch)) and not np.isfinite(batch).all():
        wrong = np.flatnonzero(~np.isfinite(batch).all(axis=1))
        raise SearchError(
            f"{wrong.size} of {len(batch)} queries hold NaN or infinity, the first is query {wrong[0]}: nothing is near "
            "them; leave them out"
        )
    return batch, given.ndim == 1


def metric_of(array: AnyArray) -> Metric:
    """Return the metric that an array names in its attributes, or the default.

    Raises
    ------
    OptionError
        If it names an unknown one.
    """
    stored = array.attrs.get("zarrvec")
    metric = stored.get("metric") if isinstance(stored, dict) else None
    if metric is None:
        return DEFAULT_METRIC
    try:
        return check_metric(metric)
    except OptionError as error:
        raise OptionError(f'{error}; it stands in attrs["zarrvec"]["metric"] of {array.name!r}') from error


def as_rows(vectors: npt.ArrayLike, array: AnyArray) -> npt.NDArray[Any]:
    """Return vectors to be appended to an array, in its dtype.

    Raises
    ------
    SearchError
        If they are masked or not real numbers, or of another shape but for the first axis.
    """
    _check_unmasked("vectors are", vectors)
    try:
        rows = np.asarray(vectors)
    except ValueError as error:
        raise SearchError("vectors differ in width: expected (n, ..., d)") from error
    if rows.dtype.kind not in "fiub" and rows.size:
        raise SearchError(f"vectors of dtype {rows.dtype} are not real numbers: expected {array.dtype}")
    expected = array.shape[1:]
    if rows.shape[1:] != expected or rows.ndim != array.ndim:
        raise SearchError(f"vectors of shape {rows.shape}: expected (n, {', '.join(map(str, expected))})")
    return rows.astype(array.dtype, copy=False)


def as_ids(ids: object, count: int) -> npt.NDArray[np.int64]:
    """Return ids of rows, ascending and each once.

    Raises
    ------
    SearchError
        If they are no integers from 0 to `count` - 1.

    Examples
    --------
    >>> as_ids([3, 1, 3], 4).tolist()
    [1, 3]
    """
    given = np.atleast_1d(_as_array(ids))
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise SearchError(
            f"ids of dtype {given.dtype} and shape {given.shape}: expected a 1-D sequence of integers, as in `Hits.ids`"
        )
    if given.size and (int(given.min()) < 0 or int(given.max()) >= count):
        wrong = given[(given < 0) | (given >= count)][0]
        raise SearchError(f"ids hold {wrong}: expected ids from 0 to {count - 1}")
    return np.unique(given.astype(np.int64))


def as_selection(where: object, leading: tuple[int, ...]) -> npt.NDArray[np.bool_] | None:
    """Return which rows are searched, as a boolean array of the leading shape; None for all.

    Parameters
    ----------
    where
        None; booleans of the leading shape or flattened; integer ids in any order, repeats count once; or a slice of ids.
        Ids count the rows in C order over the leading axes, as in `Hits.ids`; negative ids are not taken from the end.
    leading
        Shape of the array without its last axis.

    Raises
    ------
    SearchError
        If it is something else, masked, or does not fit the leading shape.

    Examples
    --------
    >>> as_selection([0, 3], (2, 2)).tolist()
    [[True, False], [False, True]]
    """
    count = int(np.prod(leading, dtype=np.int64))
    if where is None:
        return None
    if callable(where) and not hasattr(where, "__array__"):
        raise SearchError(
            f"where={where!r} is a callable, which needs a vector index on the array; evaluate it on the sibling array and "
            "pass the boolean mask"
        )
    if isinstance(where, slice):
        mask = np.zeros(count, dtype=np.bool_)
        try:
            mask[where] = True
        except (TypeError, ValueError) as error:
            raise SearchError(f"where={where!r} is no slice of ids: {error}") from error
        return mask.reshape(leading)
    given = _as_array(where)
    if given.dtype.kind == "b":
        if given.shape not in (leading, (count,)):
            raise SearchError(
                f"where is a mask of shape {given.shape}: expected the leading shape {leading} or ({count},)"
            )
        return given.reshape(leading)
    mask = np.zeros(count, dtype=np.bool_)
    mask[as_ids(given, count)] = True
    return mask.reshape(leading)


def _check_unmasked(what: str, given: object) -> None:
    # numpy.ma takes 10 ms to import, if nobody has
    if (
        isinstance(given, np.ndarray)
        and type(given) is not np.ndarray
        and isinstance(given, np.ma.MaskedArray)
    ):
        raise SearchError(
            f"{what} a masked array of shape {given.shape}, whose mask would be ignored: expected a plain array; say "
            "what masked values are by .filled(...), or leave them out"
        )


def _as_array(where: object) -> npt.NDArray[Any]:
    _check_unmasked("rows are given as", where)
    try:
        return np.asarray(where)
    except ValueError as error:
        raise SearchError(
            f"rows are given as a ragged sequence: expected a mask, ids or a slice ({error})"
        ) from error
