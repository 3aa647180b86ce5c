"""Which array does a command mean, and which vectors and ids does a file hold?"""

from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import typer
import zarr
from zarr.abc.store import Store

from zarrvec.cli.common import OURS
from zarrvec.cli.copying import open_plain_or_ours
from zarrvec.errors import OptionError, ZarrVecError
from zarrvec.faces.store import ZarrVecStore
from zarrvec.search.places import index_path_of

_OF_VERSIONS: Final = frozenset({"at", "branch"})
ArrayUrl = Annotated[str, typer.Argument(metavar="URL", help="The array, or its store; on any storage.")]
ArrayPath = Annotated[str, typer.Argument(help="Path of the array inside the store.")]


class Opened(NamedTuple):
    """An array that a command works on."""

    store: Store
    """The store that the URL names."""
    array: Any
    """The array, with its accessor ``vec``."""


def open_array(url: str, path: str, options: dict[str, dict[str, Any]], *, read_only: bool) -> Opened:
    """Open an array on any store that zarr opens.

    Raises
    ------
    OptionError
        If there is a group, or a past version that is to be written to; or the path can't be one of zarr.
    FileNotFoundError
        If there is nothing.
    """
    store = open_plain_or_ours(url, options, read_only=read_only)
    if store.read_only and not read_only:
        raise OptionError(f"{url}: a past version is read-only; expected a branch, without the option 'at'.")
    try:
        found = zarr.open(store, path=path or None, mode="r" if read_only else "r+")
    except ZarrVecError:
        raise
    except ValueError as error:
        raise OptionError(f"{url} {path}: {error}") from error
    if isinstance(found, zarr.Array):
        return Opened(store, found)
    of_indexes = index_path_of("")
    names = sorted(
        name
        for name, node in found.members(max_depth=None)
        if isinstance(node, zarr.Array) and f"{of_indexes}/" not in name
    )
    raise OptionError(f"{url} {path}: is a group, expected an array, such as one of {names}.")


def open_one_array(url: str, path: str, options: dict[str, dict[str, Any]], *, read_only: bool) -> Opened:
    """Open an array as `open_array` does, for a command of one URL, whose options are all meant for it.

    Raises
    ------
    OptionError
        If a version is asked for where there are none, besides.
    """
    opened = open_array(url, path, options, read_only=read_only)
    unknown = () if isinstance(opened.store, ZarrVecStore) else _OF_VERSIONS & options.get(OURS, {}).keys()
    for name in sorted(unknown):
        raise OptionError(f"{url}: is no zarrvec store, so it has no versions; expected no option {name!r}.")
    return opened


def row_of(array: Any, row: int) -> npt.NDArray[Any]:
    """Return a row by its id; negative ones count from the end.

    Raises
    ------
    OptionError
        If there is no such row.

    Examples
    --------
    >>> row_of(zarr.create_array({}, data=np.arange(8.0).reshape(2, 2, 2)), 2).tolist()
    [4.0, 5.0]
    """
    leading = array.shape[:-1]
    rows = int(np.prod(leading, dtype=np.int64))
    if not -rows <= row < rows:
        raise OptionError(f"--like {row}: expected a row below {rows}.")
    values: npt.NDArray[Any] = array[tuple(int(i) for i in np.unravel_index(row % rows, leading))]
    return values


def load_numbers(option: str, path: Path) -> npt.NDArray[Any]:
    """Load a file that numpy saved.

    Raises
    ------
    OptionError
        If it can't be read, or is not one.
    """
    try:
        with path.open("rb") as file:
            numbers: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise OptionError(f"{option} {path}: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"{option} {path}: is not a .npy file of numbers ({error}).") from error
    return numbers


def load_ids(option: str, path: Path) -> npt.NDArray[Any]:
    """Load ids of rows: a .npy file of integers or of one boolean for each row, or a text file of integers.

    Raises
    ------
    OptionError
        If it can't be read, or is neither.
    """
    if path.suffix == ".npy":
        return load_numbers(option, path)
    try:
        return np.array([int(word) for word in path.read_text(encoding="utf-8").split()], dtype=np.int64)
    except OSError as error:
        raise OptionError(f"{option} {path}: {error.strerror}.") from error
    except (ValueError, OverflowError) as error:
        raise OptionError(
            f"{option} {path}: expected ids of rows, integers with blanks or line ends between ({error})."
        ) from error
