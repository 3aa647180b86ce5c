"""How is an array copied to a store without versions? Its metadata come last: before, there is no array to be seen."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath

from zarrvec.adapt.copying import Copying, Tick, plan_copying
from zarrvec.adapt.sharing import Shared, copy_block, plan_shared
from zarrvec.adapt.source import Seen, array_of
from zarrvec.adapt.target import Documents, Wanted, group_document, rewritten
from zarrvec.errors import OptionError, ReadOnlyError
from zarrvec.faces.cluster import Cluster

_OF_NODES = ("zarr.json", ".zarray", ".zgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainJob:
    """The copying of one array."""

    seen: Seen
    """The source."""
    place: StorePath
    """Where the copy lies."""
    wanted: Wanted
    memory_bytes: int
    overwrite: bool
    report: Callable[[str, int, int], None]
    cluster: Cluster | None = None
    """Its workers copy."""

    def run(self) -> int:
        """Copy the array; return the number of blocks.

        Raises
        ------
        OptionError
            If there is something already, and it is not to be overwritten.
        """
        place = self.place
        if place.store.read_only:
            raise ReadOnlyError(f"{place}: the store was opened read-only; open it with mode='a' or 'r+'.")
        is_there = any(sync((place / name).exists()) for name in _OF_NODES)
        if is_there and not self.overwrite:
            raise OptionError(
                f"{place}: there is an array or group already; choose another place, or pass overwrite=True."
            )
        if self.cluster is not None:
            self._check_reached(self.cluster)
        if is_there:
            sync(place.store.delete_dir(place.path))
        target = rewritten(self.seen.documents, self.seen.array, self.wanted)
        into = array_of(place, target)
        units = tuple(into.shards or into.chunks)
        if self.cluster is None:
            copying = plan_copying(self.seen.array, self.seen.edges, units, self.memory_bytes)
        else:
            wanted = self.cluster.wanted_tasks
            copying = plan_shared(self.seen.array, self.seen.edges, units, self.memory_bytes, wanted)
        grid = tuple(-(-length // unit) for length, unit in zip(into.shape, units, strict=True))
        blocks = copying.blocks_of(np.ones(grid, dtype=bool))
        total = 2 * sum(map(copying.cells, blocks))
        done = 0

        def tick(cells: int) -> None:
            nonlocal done
            done += cells
            self.report("copy", done, total)

        self._make_groups(target.zarr_format)
        if self.cluster is None:
            for block in blocks:
                copying.write(block, copying.read(block, tick), into, tick)
        else:
            self._share(self.cluster, copying, blocks, target, tick)
        for name, value in sorted(target.encoded().items(), key=lambda item: item[0] == target.name):
            buffer = default_buffer_prototype().buffer.from_bytes(value)
            sync((place / name).set(buffer))
        return len(blocks)

    def _share(
        self, cluster: Cluster, copying: Copying, blocks: Sequence[Any], target: Documents, tick: Tick
    ) -> None:
        """Let workers copy the blocks."""
        shared = cluster.share(Shared(copying=copying, place=self.place, path="", target=target))
        for position, _ in cluster.results([cluster.submit(copy_block, shared, block) for block in blocks]):
            tick(2 * copying.cells(blocks[position]))

    def _check_reached(self, cluster: Cluster) -> None:
        """Make sure that workers write to where this process does: they must see a document that it writes for a moment."""
        cluster.check_reached(self.place)
        probe = StorePath(self.place.store, f"{self.place.path}/{secrets.token_hex(8)}".strip("/"))
        document = probe / ".zgroup"
        sync(document.set(default_buffer_prototype().buffer.from_bytes(group_document(2)[1])))
        try:
            cluster.check_reached(probe)
        finally:
            sync(probe.delete_dir())

    def _make_groups(self, zarr_format: int) -> None:
        parts = self.place.path.split("/") if self.place.path else []
        name, document = group_document(zarr_format)
        for above in ("/".join(parts[:depth]) for depth in range(len(parts))):
            group = StorePath(self.place.store, above)
            if any(sync((group / each).exists()) for each in ("zarr.json", ".zgroup")):
                if isinstance(zarr.open(group, mode="r"), zarr.Array):
                    raise OptionError(f"{self.place}: {above or '/'!r} is an array, in which none can lie.")
                continue
            sync((group / name).set(default_buffer_prototype().buffer.from_bytes(document)))
