"""What must a plan keep to: the array, fixed axes, whole ones, and limits?

Source: ``specs/planner.md``, section "Limits".
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from zarrvec.errors import PlanError
from zarrvec.planner.access import Pattern, is_positive, is_whole
from zarrvec.planner.records import Figures
from zarrvec.planner.shapes import Chunks

KEPT_WHOLE_BYTES: Final = 1 << 20
"""Axes that every access takes whole are kept whole while a chunk of them alone is no larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a plan must keep to."""

    max_chunk_bytes: int
    memory_bytes: int | None
    max_objects: int | None

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        for name in ("max_chunk_bytes", "memory_bytes", "max_objects"):
            value = getattr(self, name)
            if value is None and name != "max_chunk_bytes":
                continue
            if not is_positive(value):
                raise PlanError(f"{name}={value!r}: expected a positive number.")

    def broken_by(self, figures: Figures) -> str:
        """Return which limit a layout breaks, empty if none."""
        if figures.chunk_bytes > self.max_chunk_bytes:
            return f"max_chunk_bytes={self.max_chunk_bytes}: a chunk has {figures.chunk_bytes} bytes"
        if self.memory_bytes is not None and figures.memory_bytes > self.memory_bytes:
            return f"memory_bytes={self.memory_bytes}: a call needs {figures.memory_bytes}"
        if self.max_objects is not None and figures.objects > self.max_objects:
            return f"max_objects={self.max_objects}: there are {figures.objects}"
        return ""


def checked(shape: Sequence[int], dtype: npt.DTypeLike) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype of an array that can be planned for.

    Raises
    ------
    PlanError
        If it has no axes or empty ones, or values of no fixed size.

    Examples
    --------
    >>> checked([2, 3], "f4")
    ((2, 3), dtype('float32'))
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise PlanError(f"dtype={dtype!r}: is no numpy dtype ({error}).") from error
    if kind.hasobject or kind.kind == "T" or kind.itemsize == 0:
        raise PlanError(
            f"dtype={kind}: values have no fixed size, so nothing can be counted; expected numbers, booleans, times, or "
            "strings and bytes of a fixed length."
        )
    if kind.fields is not None:
        raise PlanError(f"dtype={kind}: has fields; plan an array for each of them.")
    lengths = _lengths(shape)
    if not lengths:
        raise PlanError("shape=(): an array without axes is one chunk, there is nothing to plan.")
    for axis, size in enumerate(lengths):
        if not is_whole(size) or size < 1:
            raise PlanError(
                f"shape={lengths}: axis {axis} has {size!r} cells; expected at least 1. Of an array that grows, give the shape it is "
                "expected to have."
            )
    return tuple(int(size) for size in lengths), kind


def _lengths(given: object) -> tuple[Any, ...]:
    """Return what was given as lengths, which one number may be too."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def _axis_number(axis: int | str, ndim: int, axes: Sequence[str] | None, option: str) -> int:
    if isinstance(axis, str):
        if not axes or axis not in axes:
            raise PlanError(f"{option}: no axis is called {axis!r}; axes={list(axes or [])}.")
        return list(axes).index(axis)
    if not is_whole(axis) or not -ndim <= axis < ndim:
        raise PlanError(f"{option}: there is no axis {axis}, the array has {ndim}.")
    return axis % ndim


def held_lengths(
    shape: tuple[int, ...],
    kind: np.dtype[Any],
    patterns: Sequence[Pattern],
    axes: Sequence[str] | None,
    fixed: Mapping[int | str, int] | None,
    whole_axes: Sequence[int | str] | None,
    max_chunk_bytes: int,
) -> dict[int, int]:
    """Return the chunk lengths that are not searched for, by axis: fixed ones, and axes that are not split.

    Raises
    ------
    PlanError
        If there is no such axis, or it can't have such chunks.

    Examples
    --------
    >>> held_lengths((9, 4), np.dtype("f4"), [], None, {0: 3}, (-1,), 1000)
    {0: 3, 1: 4}
    """
    ndim = len(shape)
    held: dict[int, int] = {}
    if fixed is not None and not isinstance(fixed, Mapping):
        raise PlanError(f"fixed={fixed!r}: expected chunk lengths by axis, such as {{0: 1}}.")
    if whole_axes is not None and (isinstance(whole_axes, str) or not isinstance(whole_axes, Iterable)):
        raise PlanError(f"whole_axes={whole_axes!r}: expected axes, such as (-1,).")
    for axis, length in (fixed or {}).items():
        number = _axis_number(axis, ndim, axes, f"fixed={dict(fixed or {})}")
        if not is_whole(length) or not 1 <= length <= shape[number]:
            raise PlanError(f"fixed: {length!r} along axis {axis!r}; expected 1 to {shape[number]} cells.")
        held[number] = int(length)
    if whole_axes is not None:
        for axis in whole_axes:
            number = _axis_number(axis, ndim, axes, f"whole_axes={tuple(whole_axes)}")
            if held.get(number, shape[number]) != shape[number]:
                raise PlanError(
                    f"whole_axes: axis {axis!r} is fixed to {held[number]} of {shape[number]} cells."
                )
            held[number] = shape[number]
        return held
    size = kind.itemsize * math.prod(held.values())
    for axis in reversed(range(ndim)):
        if axis in held:
            continue
        whole = all(
            pattern.lengths[axis] == shape[axis] and pattern.scattered * (pattern.axis == axis) == 0
            for pattern in patterns
        )
        size *= shape[axis]
        vector = axis == ndim - 1 and ndim > 1 and (kind.kind == "f" or kind.itemsize == 1)
        if (
            not whole
            or size > (max_chunk_bytes if vector else min(KEPT_WHOLE_BYTES, max_chunk_bytes))
            or ndim == 1
        ):
            break
        held[axis] = shape[axis]
    return held


def own_chunks(chunks: Sequence[int] | None, shape: tuple[int, ...]) -> Chunks | None:
    """Return the user's own chunks, if they fit the array.

    Raises
    ------
    PlanError
        If they don't.
    """
    if chunks is None:
        return None
    own = _lengths(chunks)
    if len(own) != len(shape) or not all(is_whole(chunk) and chunk > 0 for chunk in own):
        raise PlanError(
            f"chunks={chunks!r}: expected {len(shape)} lengths of at least 1, one for each axis of {shape}."
        )
    return tuple(int(chunk) for chunk in own)
