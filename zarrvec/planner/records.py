"""What is predicted of a layout, and what a plan consists of: values that are kept as JSON."""

from dataclasses import dataclass
from typing import Any, Literal

from zarrvec.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFigures:
    """What one call of an access takes, on average."""

    name: str
    kind: str
    weight: float
    """Share of all accesses."""
    gets: float
    """Requests that read; of a write, those for what it changes in part."""
    get_bytes: float
    puts: float
    """Requests that write, commits among them."""
    put_bytes: float
    chunks: float
    """Chunks that are decoded or encoded."""
    read_amplification: float
    """Decoded bytes for each byte that is wanted; of a write, those of chunks that it reads to change them."""
    rewrite_amplification: float
    """Encoded bytes for each byte that is written; 0 of a read."""
    fetch_seconds: float
    decode_seconds: float
    encode_seconds: float
    store_seconds: float
    seconds: float
    """All together; reading goes on beside decoding where there is much of both."""
    dollars: float
    """Of its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is predicted of a layout."""

    chunk_bytes: int
    """Decoded bytes of a chunk."""
    chunks: int
    """Number of chunks."""
    objects: int
    """Packs (or objects of a plain store) after the array has been filled."""
    stored_bytes: int
    """Of all chunks."""
    seconds: float
    """Of an access, the mean by weight."""
    requests: float
    """Of an access, the mean by weight."""
    bytes: float
    """Read and written by an access, the mean by weight."""
    memory_bytes: int
    """Of a call besides its result, the most that any access needs."""
    dollars_per_month: float
    """Storage, and the requests of all accesses of a month."""
    accesses: tuple[AccessFigures, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How chunks are encoded, as Zarr's own configurations."""

    name: str
    filters: tuple[dict[str, Any], ...] = ()
    """Of format 3."""
    serializer: dict[str, Any] | None = None
    """Of format 3; None for zarr's ``bytes``."""
    compressors: tuple[dict[str, Any], ...] = ()
    """Of format 3."""
    in_format_2: bool = True
    """Whether format 2 can have it."""
    filters_2: tuple[dict[str, Any], ...] = ()
    compressor_2: dict[str, Any] | None = None
    lossy: bool = False
    """Whether what is read may differ from what was written."""
    ratio: float = 1.0
    """Decoded bytes for each stored one; measured if there was a sample."""
    encode_seconds: float = 0.0
    """Of one thread, for each decoded byte."""
    decode_seconds: float = 0.0
    """Of one thread, for each decoded byte."""
    measured: bool = False
    """Whether these were measured on a sample."""

    def options(self, zarr_format: Literal[2, 3]) -> dict[str, Any]:
        """Return what to hand on to ``zarr.create_array``.

        Raises
        ------
        PlanError
            If the format can't have it.
        """
        if zarr_format == 3:
            return {
                "filters": list(self.filters),
                "serializer": "auto" if self.serializer is None else self.serializer,
                "compressors": list(self.compressors),
            }
        if not self.in_format_2:
            raise PlanError(
                f"codec {self.name!r}: is not to be had in Zarr format 2; create the array in format 3."
            )
        from numcodecs import get_codec

        make: Any = get_codec
        return {
            "filters": [make(dict(codec)) for codec in self.filters_2] or None,
            "compressors": None if self.compressor_2 is None else make(dict(self.compressor_2)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to store the array, and what is predicted of it."""

    name: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    """None on a zarrvec store, which packs chunks."""
    store: str
    """``"zarrvec"`` or ``"plain"``."""
    pack_bytes: int
    codec: Codec
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAccess:
    """An access as it was planned for; `zarrvec.Access` makes it again."""

    name: str
    kind: Literal["read", "write"]
    weight: float
    lengths: tuple[int, ...]
    starts: tuple[int | None, ...]
    aligned: bool
    scattered: int
    axis: int
