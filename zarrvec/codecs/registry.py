"""Which codecs may an array be stored with, and who offers them?

A *candidate* is one way to encode chunks, written as Zarr's own codec configurations, so that what is stored with it is read
by zarr alone. Whoever has candidates to offer names a function under the entry point group ``zarrvec.codecs``; zarrvec's
own are named there too. The function is called with the dtype and the chunk shape and returns candidates.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.codecs.bounds import ErrorBound
from zarrvec.errors import CodecError, PluginWarning

GROUP: Final = "zarrvec.codecs"
"""Entry point group of functions that offer candidates."""
OWN: Final = "zarrvec"
"""Name of zarrvec's own entry point; its candidates come first."""

Configuration: TypeAlias = Mapping[str, Any]
"""A codec as JSON has it: ``{"name": ..., "configuration": {...}}`` in format 3, ``{"id": ..., ...}`` in format 2."""
Offer: TypeAlias = Callable[[np.dtype[Any], tuple[int, ...]], Iterable["Candidate"]]
"""What an entry point resolves to: candidates for a dtype and a chunk shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to encode the chunks of an array.

    Examples
    --------
    >>> candidate = Candidate(name="zstd-3", compressors=({"name": "zstd", "configuration": {"level": 3}},))
    >>> candidate.options(3)["compressors"]
    [{'name': 'zstd', 'configuration': {'level': 3}}]
    >>> candidate.formats
    (3,)
    """

    name: str
    """Unique among all candidates; lower case, with hyphens."""
    dtypes: frozenset[str] | None = None
    """Names of the numpy dtypes that it takes; None for all of fixed size."""
    filters: tuple[Configuration, ...] = ()
    """Array-to-array codecs of format 3."""
    serializer: Configuration | None = None
    """Array-to-bytes codec of format 3; None for zarr's ``bytes``."""
    compressors: tuple[Configuration, ...] = ()
    """Bytes-to-bytes codecs of format 3."""
    in_format_2: bool = False
    """Whether format 2 can have it, by the two fields that follow."""
    filters_2: tuple[Configuration, ...] = ()
    """Filters of format 2, as numcodecs configures them."""
    compressor_2: Configuration | None = None
    """Compressor of format 2, as numcodecs configures it; None for none."""
    max_error: ErrorBound | None = None
    """Declared by a lossy candidate; None if what is read is what was written."""

    @property
    def lossy(self) -> bool:
        """Whether what is read may differ from what was written."""
        return self.max_error is not None

    @property
    def formats(self) -> tuple[int, ...]:
        """The Zarr formats that can have it."""
        return (2, 3) if self.in_format_2 else (3,)

    def takes(self, dtype: npt.DTypeLike) -> bool:
        """Return whether arrays of a dtype can have it, in any byte order."""
        return self.dtypes is None or np.dtype(dtype).newbyteorder("=").name in self.dtypes

    def options(self, zarr_format: Literal[2, 3] = 3) -> dict[str, Any]:
        """Return what to hand on to ``zarr.create_array``.

        Returns
        -------
        ``filters``, ``compressors`` and, in format 3, ``serializer``.

        Raises
        ------
        CodecError
            If the format can't have it.
        """
        if zarr_format not in self.formats:
            raise CodecError(
                f"{self.name!r} is not to be had in Zarr format {zarr_format}, only in {self.formats[0]}."
            )
        if zarr_format == 2:
            from numcodecs import get_codec

            return {
                "filters": [get_codec(dict(codec)) for codec in self.filters_2] or None,
                "compressors": None if self.compressor_2 is None else get_codec(dict(self.compressor_2)),
            }
        return {
            "filters": [dict(codec) for codec in self.filters],
            "serializer": "auto" if self.serializer is None else dict(self.serializer),
            "compressors": [dict(codec) for codec in self.compressors],
        }


def candidates(dtype: npt.DTypeLike, chunk_shape: tuple[int, ...]) -> tuple[Candidate, ...]:
    """Return all candidates for chunks of a dtype and shape: zarrvec's own, then those of plugins in the order of their names.

    A plugin that fails, or offers what is no candidate or has a name that is taken, is left out with a `PluginWarning` that
    names it; the others stand.

    Parameters
    ----------
    dtype
        Of the array; of fixed size.
    chunk_shape
        Of the chunks that are encoded one by one (inside of a shard, of its inner chunks).

    Raises
    ------
    CodecError
        If the dtype is one of Python objects or of strings of any length, or an axis of the chunk is of size 0.

    Examples
    --------
    >>> [candidate.name for candidate in candidates("uint8", (1, 224, 224, 3)) if "zstd" in candidate.name]
    ['blosc-zstd', 'blosc-zstd-bitshuffle', 'zstd-1', 'zstd-3', 'zstd-9']
    >>> {candidate.lossy for candidate in candidates("int32", (100,))}
    {False}
    """
    wanted = np.dtype(dtype)
    if wanted.hasobject or wanted.kind == "T" or wanted.itemsize == 0:
        raise CodecError(
            f"dtype {wanted}: there are no candidates for values that have no fixed size; use a dtype of numbers, of booleans or "
            "of strings of a fixed length, or leave the codecs to zarr."
        )
    if not all(length > 0 for length in chunk_shape):
        raise CodecError(f"chunk shape {chunk_shape}: each axis of a chunk must be at least 1 long.")
    found: dict[str, Candidate] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name != OWN, point.name)):
        try:
            offered = _offered_by(point, wanted, chunk_shape)
            taken = [candidate.name for candidate in offered if candidate.name in found]
            if taken:
                raise CodecError(f"{taken[0]!r} is the name of a candidate that another offers")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the others stand
            warnings.warn(_complaint(point, error), PluginWarning, stacklevel=2)
            continue
        found |= {candidate.name: candidate for candidate in offered}
    return tuple(found.values())


def _offered_by(point: EntryPoint, dtype: np.dtype[Any], chunk_shape: tuple[int, ...]) -> list[Candidate]:
    offer: Offer = point.load()
    offered = list(offer(dtype, chunk_shape))
    for candidate in offered:
        if not isinstance(candidate, Candidate):
            raise CodecError(f"it offers {candidate!r}, which is no zarrvec.codecs.registry.Candidate")
    names = [candidate.name for candidate in offered]
    if len(set(names)) < len(names):
        raise CodecError(f"it offers two candidates of one name: {sorted(names)}")
    return [candidate for candidate in offered if candidate.takes(dtype)]


def _complaint(point: EntryPoint, error: Exception) -> str:
    package = "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    return (
        f"the codecs of plugin {point.name!r} ({point.value}, of {package}) are left out: {type(error).__name__}: {error}. "
        f"Update or uninstall {'it' if point.dist is None else point.dist.name}."
    )
