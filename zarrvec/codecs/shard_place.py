"""What do a store and an array say of one shard?"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Self

from zarr.codecs.sharding import ShardingCodec
from zarr.core import chunk_grids
from zarr.storage import StorePath

from zarrvec.codecs.shard_guard import name_of_store
from zarrvec.errors import CorruptShardError
from zarrvec.faces.pipeline import _decoded_bytes
from zarrvec.layout.coalesce import GAP_BYTES, READ_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard that is a value of a store."""

    place: StorePath
    """Store and key."""
    key: Hashable
    """The same for all handles of the shard in this process, as far as their stores can be told to be one place."""
    spec: Any
    """zarr's `ArraySpec` of the shard."""
    chunk_spec: Any
    """And of an inner chunk."""
    grid: tuple[int, ...]
    """Number of inner chunks along each axis."""

    @classmethod
    def of(cls, codec: ShardingCodec, place: Any, spec: Any) -> Self:
        """Ask zarr's codec."""
        return cls(
            place=place,
            key=(name_of_store(place.store), place.path),
            spec=spec,
            chunk_spec=codec._get_chunk_spec(spec),
            grid=codec._get_chunks_per_shard(spec),
        )

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.place)

    @property
    def inner_grid(self) -> Any:
        """As zarr's indexers want it."""
        newer: Any = chunk_grids.ChunkGrid
        if hasattr(newer, "from_sizes"):
            return newer.from_sizes(self.spec.shape, self.chunk_spec.shape)
        return chunk_grids.RegularChunkGrid(chunk_shape=self.chunk_spec.shape)

    @property
    def chunk_bytes(self) -> int:
        """Of an inner chunk, decoded."""
        return _decoded_bytes(self.chunk_spec)

    @property
    def gap_bytes(self) -> int:
        """As the array is configured, where zarr knows of it."""
        return int(getattr(self.spec.config, "sharding_coalesce_max_gap_bytes", GAP_BYTES))

    @property
    def read_bytes(self) -> int:
        """As the array is configured, where zarr knows of it."""
        return int(getattr(self.spec.config, "sharding_coalesce_max_bytes", READ_BYTES))

    def truncated(self, length: int, expected: int) -> CorruptShardError:
        """Say that the shard, or what was read of its index, is too short."""
        return CorruptShardError(
            f"{self.name}: {length} bytes where the shard's index of {expected} should be. It is truncated: restore it, or "
            "write the whole shard anew."
        )
