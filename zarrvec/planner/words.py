"""Which accesses do common words mean: "one frame", "by episode", "random rows of 500"?

Source: ``specs/planner.md``, section "Words".
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from zarrvec.errors import PlanError
from zarrvec.planner.access import Access, Extent, Kind

Asked: TypeAlias = str | Access | tuple[str, float]
"""An access, words for one, or words and a weight."""

_ITEMS: Final = ("frame", "item", "vector", "image", "step", "sample", "cell")
_ROWS: Final = ("row", "episode", "record", "trajectory")
_EXAMPLES: Final = "'one frame', 'by episode', 'window of 10', 'rows of 100', 'whole column', 'random rows of 500', 'full scan'"


def inner_axes(ndim: int) -> int:
    """Return how many of the last axes make up one item where axes have no names.

    An image of three axes where there are four or more, a vector of one where there are two or three, else a number.

    Examples
    --------
    >>> [inner_axes(ndim) for ndim in (1, 2, 3, 4, 5)]
    [0, 1, 1, 3, 3]
    """
    return 3 if ndim >= 4 else min(1, ndim - 1)


def access_of(asked: Asked, kind: Kind, ndim: int, axes: Sequence[str] | None = None) -> Access:
    """Return the access that is meant.

    Parameters
    ----------
    asked
        An `Access`, words, or words and a weight. Words may end in ``=weight`` too.
    kind
        Of words.
    ndim
        Of the array.
    axes
        Names of its axes, if they have any.

    Raises
    ------
    PlanError
        If the words mean nothing, or an access is of the other kind.

    Examples
    --------
    >>> access_of("one frame", "read", 5).shape
    (1, 1, None, None, None)
    >>> access_of("window of 10=0.5", "read", 5)
    Access(kind='read', shape=(1, 10, None, None, None), weight=0.5, start=None, scattered=0, axis=0, name='window of 10')
    >>> access_of("by time", "read", 3, ["time", "lat", "lon"]).shape
    (1, None, None)
    """
    if isinstance(asked, Access):
        if asked.kind != kind:
            raise PlanError(
                f"access {asked.name or asked.shape}: is a {asked.kind}, given among the {kind}s."
            )
        return asked
    weight = 1.0
    words: object = asked
    if isinstance(asked, tuple) and len(asked) == 2:
        words, weight = asked
    if not isinstance(words, str):
        raise PlanError(f"{kind}s: {asked!r}; expected an Access, words, or (words, weight).")
    if "=" in words:
        words, _, given = words.rpartition("=")
        try:
            weight = float(given)
        except ValueError:
            raise PlanError(f"{kind} {asked!r}: the weight {given!r} is no number.") from None
    text = " ".join(words.lower().split())
    if axes is not None and (
        len(set(axes)) != ndim or len(axes) != ndim or not all(isinstance(name, str) for name in axes)
    ):
        raise PlanError(f"axes={list(axes)!r}: expected {ndim} different names, one for each axis.")
    for pattern, make in _WORDS:
        found = re.fullmatch(pattern, text)
        if found is not None:
            fields = make(found.groupdict(), ndim, axes)
            if fields is not None:
                return Access(kind, name=text, weight=weight, **fields)
    known = f" or an axis of {list(axes)}" if axes else ""
    raise PlanError(f"{kind} {words!r}: unknown words; expected such as {_EXAMPLES}{known}, or an Access.")


def _axis(name: str | None, ndim: int, axes: Sequence[str] | None) -> int | None:
    """Return the axis that a word names."""
    if name is None:
        return max(0, ndim - inner_axes(ndim) - 1)
    for spelled in (name, name.removesuffix("s")):
        if axes and spelled in [axis.lower() for axis in axes]:
            return [axis.lower() for axis in axes].index(spelled)
        if spelled in _ROWS:
            return 0
        if spelled in _ITEMS:
            return max(0, ndim - inner_axes(ndim) - 1)
    return None


def _ones_then(axis: int, length: int, ndim: int) -> tuple[Extent, ...]:
    return (*[1] * axis, length, *[None] * (ndim - axis - 1))


Fields: TypeAlias = dict[str, Any] | None


def _one(words: dict[str, str], ndim: int, axes: Sequence[str] | None) -> Fields:
    axis = _axis(words["name"], ndim, axes)
    return None if axis is None else {"shape": _ones_then(axis, 1, ndim)}


def _by(words: dict[str, str], ndim: int, axes: Sequence[str] | None) -> Fields:
    axis = _axis(words["name"], ndim, axes)
    if axis is None:
        return None
    return {"shape": (*[None] * axis, 1, *[None] * (ndim - axis - 1)), "start": "aligned"}


def _window(words: dict[str, str], ndim: int, axes: Sequence[str] | None) -> Fields:
    axis = _axis(words["name"], ndim, axes)
    return None if axis is None else {"shape": _ones_then(axis, int(words["count"]), ndim)}


def _rows(words: dict[str, str], ndim: int, axes: Sequence[str] | None) -> Fields:
    axis = _axis(words["name"], ndim, axes)
    if axis is None:
        return None
    shape = (*[None] * axis, int(words["count"]), *[None] * (ndim - axis - 1))
    return {"shape": shape, "start": "aligned"}


def _random(words: dict[str, str], ndim: int, axes: Sequence[str] | None) -> Fields:
    axis, count = _axis(words["name"], ndim, axes), int(words["count"])
    if axis is None:
        return None
    if not count:
        raise PlanError(f"random {words['name']} of {count}: expected at least 1.")
    shape = (*[None] * axis, 1, *[None] * (ndim - axis - 1))
    return {"shape": shape, "scattered": count, "axis": axis, "start": "anywhere"}


def _column(words: dict[str, str], ndim: int, axes: Sequence[str] | None) -> Fields:
    del words, axes
    return {"shape": (None, *[1] * (ndim - 1))}


def _all(words: dict[str, str], ndim: int, axes: Sequence[str] | None) -> Fields:
    del words, axes
    return {"shape": (None,) * ndim}


_WORDS: Final[Iterable[tuple[str, Callable[[dict[str, str], int, Sequence[str] | None], Fields]]]] = (
    (r"(full scan|everything|all|whole array|at once)", _all),
    (r"(whole|one|by) (column|series|time series)", _column),
    (r"(?:one|an?|single) (?P<name>\w+) at a time", _by),
    (r"(?:random|scattered) (?P<name>\w+) of (?P<count>\d+)", _random),
    (r"(?P<count>\d+) (?:random|scattered) (?P<name>\w+)", _random),
    (r"windows? of (?P<count>\d+)(?: (?P<name>\w+))?", _window),
    (r"(?:append of |batch of |batches of )?(?P<count>\d+) (?P<name>\w+)", _rows),
    (r"(?P<name>\w+) of (?P<count>\d+)", _rows),
    (r"(?:one|an?|single) (?P<name>\w+)", _one),
    (r"by (?P<name>\w+)", _by),
)
