"""How is an array rewritten on a zarrvec store: in steps that a later call goes on from, then by one commit?

A step copies a block into an array beside, and commits it with the record of what is still to do. When nothing is, one
commit puts what was copied in the array's place, by naming where it lies: nothing is written twice. It rests on every unit
of the source being the one that was copied; what others wrote meanwhile is copied again first.

Source: ``specs/decisions/0008-rechunk-in-steps.md``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.adapt.copying import Copying, plan_copying
from zarrvec.adapt.sharing import Shared, copy_block, plan_shared
from zarrvec.adapt.source import (
    NAMES,
    Seen,
    array_of,
    generations_of,
    key_below,
    read_documents,
    see_versioned,
)
from zarrvec.adapt.stage import STATE, State, mark, stage_path_of
from zarrvec.adapt.target import Documents, Wanted, group_document, repeated_in, rewritten
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.listing import list_entries
from zarrvec.engine.outcomes import StaleError
from zarrvec.engine.reader import Request
from zarrvec.engine.staging import HandedOver, Staging
from zarrvec.engine.version import View
from zarrvec.errors import ConflictError, OptionError
from zarrvec.faces.cluster import Cluster
from zarrvec.faces.folders import clear_folders
from zarrvec.faces.store import ZarrVecStore
from zarrvec.repository import Repository, Transaction
from zarrvec.search.units import STAGED, Units
from zarrvec.types import Entry

PASSES: Final = 20
"""How often what others changed meanwhile is copied again."""

See = Callable[[], Seen]
Report = Callable[[str, int, int], None]


class _ChangedError(Exception):
    """The source is no longer what was copied."""


@dataclass(slots=True, kw_only=True)
class Job:
    """The rewriting of one array."""

    repository: Repository
    """Of the store that is written; it counts nothing in the trace."""
    path: str
    """Of the array that is made."""
    wanted: Wanted
    memory_bytes: int
    message: str
    overwrite: bool
    """Whether what is at the path may be replaced, if that is not the source."""
    source: str
    """What is copied, for the record."""
    see: See | None
    """Looks at the source; None if it is what is replaced."""
    report: Report
    cluster: Cluster | None = None
    """Its workers copy."""
    blocks: int = 0
    """Blocks that were copied."""
    passes: int = 0
    """Times that the source was looked at."""
    resumed: bool = False
    """Whether an earlier call had begun."""
    commit: int | None = None
    """Number of the last commit; None if nothing had to be done."""
    _generation: int = field(default=0, init=False)

    @property
    def in_place(self) -> bool:
        """Whether the array takes the place of the source."""
        return self.see is None

    @property
    def stage(self) -> str:
        """Where it is copied to."""
        return stage_path_of(self.path)

    def run(self) -> None:
        """Rewrite the array.

        Raises
        ------
        ConflictError
            If another call is rewriting it too, or others change the source faster than it is copied.
        """
        for _ in range(PASSES):
            self.passes += 1
            view = View(version=run_sync(self.repository.begin_transaction()).version)
            seen = see_versioned(self.repository, view, self.path) if self.see is None else self.see()
            target = rewritten(seen.documents, seen.array, self.wanted)
            if self.in_place and target.structure == seen.documents.structure:
                return
            if not self.in_place:
                self._check_free()
                self._missing_groups(view)
            self._copy(view, seen, target)
            try:
                self.commit = self._put_in_place(seen, target)
            except (_ChangedError, StaleError):
                continue
            return
        raise ConflictError(
            f"{self.repository.place.name}: others changed {self.path or '/'!r} each of the {PASSES} times that what they "
            f"had changed was copied again. What was copied is kept in {self.stage!r}: call again when fewer write.",
        )

    def _check_free(self) -> None:
        there = set(run_sync(self.repository.list_children(self.path))) - {self.stage}
        if there and not self.overwrite:
            raise OptionError(
                f"{self.repository.place.name}/{self.path}: there is an array or group already, or something else "
                f"({min(there)!r}); choose another place, or pass overwrite=True."
            )

    # -- steps --------------------------------------------------------------------------------------------------------

    def _copy(self, view: View, seen: Seen, target: Documents) -> None:
        """Copy what is still to do, a block a commit."""
        place = StorePath(ZarrVecStore(self.repository, self.stage))
        into = array_of(place, target)
        units = tuple(into.shards or into.chunks)
        state, before = self._state(view, seen, target, units)
        copying = self._planned(seen, units)
        left = copying.blocks_of(state.todo)
        total = 2 * sum(map(copying.cells, left))
        done = 0

        def tick(cells: int) -> None:
            nonlocal done
            done += cells
            self.report("copy", done, total)

        is_new = before is None
        if is_new and ((not left and self._generation) or (left and self.cluster is not None)):
            self._step(state, target, lambda: None, clear=True)
            is_new = False
        for block, write in self._blocks(copying, left, target, into, tick):
            state.todo[block] = False
            self._step(state, target, write, clear=is_new)
            is_new = False
            self.blocks += 1

    def _planned(self, seen: Seen, units: tuple[int, ...]) -> Copying:
        if self.cluster is None:
            return plan_copying(seen.array, seen.edges, units, self.memory_bytes)
        return plan_shared(seen.array, seen.edges, units, self.memory_bytes, self.cluster.wanted_tasks)

    def _blocks(
        self,
        copying: Copying,
        left: Sequence[tuple[slice, ...]],
        target: Documents,
        into: AnyArray,
        tick: Callable[[int], None],
    ) -> Iterator[tuple[tuple[slice, ...], Callable[[], None]]]:
        """Read blocks; yield each of them with what writes it."""
        if self.cluster is None:
            for block in left:
                # before the step is open: reads would see what it stands on
                values = copying.read(block, tick)
                yield block, partial(copying.write, block, values, into, tick)
            return
        if not left:
            return
        self.cluster.check_reached(into.store_path)
        place = self.repository.place
        shared = self.cluster.share(Shared(copying=copying, place=place, path=self.stage, target=target))
        tasks = [self.cluster.submit(copy_block, shared, block) for block in left]
        for position, handed in self.cluster.results(tasks):
            tick(2 * copying.cells(left[position]))
            yield left[position], partial(self._take_over, handed)

    def _take_over(self, handed: HandedOver) -> None:
        """Write what a worker has handed over."""
        transaction = self.repository.transaction
        assert transaction is not None  # of the step
        transaction.staging.take_over(handed)

    def _step(self, state: State, target: Documents, write: Callable[[], None], *, clear: bool) -> None:
        """Commit a part of the copy with the record of what is left."""
        with Transaction(self.repository, automatic=True) as step:
            self._take_turn(step.staging)
            if clear:
                step.staging.clear(self.stage)
            self._put(step.staging, target.encoded(), self.stage)
            write()
            self._put(step.staging, {STATE: state.encode()}, self.stage)
        self._generation = step.number or 0

    def _state(
        self, view: View, seen: Seen, target: Documents, units: tuple[int, ...]
    ) -> tuple[State, State | None]:
        """Return what is to do now, and what an earlier call had left to do if that goes on."""
        shape = seen.array.shape
        grid = tuple(-(-length // unit) for length, unit in zip(shape, units, strict=True))
        state = State(
            source=self.source,
            source_structure=seen.documents.structure,
            structure=target.structure,
            shape=shape,
            units=units,
            todo=np.zeros(grid, dtype=bool),
            grid=seen.grid,
            generations=seen.generations,
        )
        key = key_below(self.stage, STATE)
        (found,) = run_sync(self._read(view, [key]))
        self._generation = 0 if found is None else found[1]
        before = None if found is None else State.decode(found[0])
        if before is not None and state.is_of(before):
            self.resumed = self.resumed or self.passes == 1
            state.going_on(before, seen.edges)
            return state, before
        if found is None and not run_sync(self.repository.is_empty(self.stage)):
            raise OptionError(
                f"{self.repository.place.name}/{self.stage}: holds something, but {self.path or 'the array'!r} is copied there "
                "first; move it."
            )
        if state.generations is None:
            state.todo[...] = True
        else:
            mark(state.todo, (state.generations != 0).reshape(seen.grid), seen.edges, state.edges)
        return state, None

    async def _read(self, view: View, keys: list[str]) -> list[tuple[bytes, int] | None]:
        found = await (await self.repository.engine()).read(view, [Request(key) for key in keys])
        return [None if value is None else (bytes(value.data), value.generation) for value in found]

    def _take_turn(self, staging: Staging) -> None:
        """Make sure that nobody else has rewritten the record since, and that nobody does until the commit."""
        key = key_below(self.stage, STATE)
        (entry,) = run_sync(self.repository.locate(staging.view, [key]))
        if (0 if entry is None else entry.generation) != self._generation:
            raise ConflictError(
                f"{self.repository.place.name}: another call is rechunking {self.path or '/'!r}, or has ended meanwhile "
                f"({key!r} was changed). Let one do it.",
                keys=(key,),
            )
        staging.expect(key, self._generation)

    def _put(self, staging: Staging, values: Mapping[str, bytes], path: str) -> None:
        async def put() -> None:
            for name, value in values.items():
                await staging.put(key_below(path, name), value)

        run_sync(put())

    # -- the last commit ----------------------------------------------------------------------------------------------

    def _put_in_place(self, seen: Seen, target: Documents) -> int | None:
        """Give the array its new chunks, or make it, in one commit."""
        with Transaction(self.repository, message=self.message) as last:
            staging = last.staging
            view = View(version=staging.version)
            self._take_turn(staging)
            documents = run_sync(read_documents(self.repository, view, self.path))
            if self.in_place:
                self._expect_unchanged(staging, view, seen, documents)
                values = {name: data for name, (data, _) in documents.items()}
                now = Documents.of(values)
                assert now is not None  # its structure and shape are as they were
                target = rewritten(now, seen.array, self.wanted)
            else:
                self._check_free()
            for name in NAMES:
                staging.expect(key_below(self.path, name), documents[name][1] if name in documents else 0)
            copied = run_sync(self._entries(view, self.stage))
            units = Units.of(
                array_of(StorePath(ZarrVecStore(self.repository, self.stage)), target), self.stage
            )
            self._clear(staging, view, seen)
            for key, entry in copied.items():
                if units.position(key) is not None:
                    staging.place(key_below(self.path, key[len(self.stage) + 1 :]), entry)
            staging.refer(view.version.packs())
            self._put(staging, target.encoded(), self.path)
            if self.in_place:
                self._put_into_groups(staging, view, target)
            else:
                name, document = group_document(target.zarr_format)
                for above in self._missing_groups(view):
                    self._put(staging, {name: document}, above)
            staging.clear(self.stage)
        return last.number

    def _expect_unchanged(
        self, staging: Staging, view: View, seen: Seen, documents: Mapping[str, tuple[bytes, int]]
    ) -> None:
        """Let the commit rest on each unit of the source being the one that was copied."""
        now = Documents.of({name: data for name, (data, _) in documents.items()})
        if (
            now is None
            or now.structure != seen.documents.structure
            or tuple(now.main["shape"]) != seen.array.shape
        ):
            raise _ChangedError
        generations = run_sync(generations_of(self.repository, view, seen.array, self.path))
        if seen.generations is None or not np.array_equal(generations, seen.generations):
            raise _ChangedError
        encode = seen.array.metadata.encode_chunk_key
        for position, generation in zip(np.ndindex(seen.grid), generations.tolist(), strict=True):
            assert generation != STAGED
            staging.expect(key_below(self.path, encode(position)), generation)

    async def _entries(self, view: View, path: str) -> dict[str, Entry]:
        reader = (await self.repository.engine()).reader
        return {key: entry async for key, entry in list_entries(reader, view, path)}

    def _clear(self, staging: Staging, view: View, seen: Seen) -> None:
        """Delete what the array was stored as; what else lies below its path stays."""
        if not self.in_place:
            if self.overwrite:
                run_sync(clear_folders(self.repository, staging, [self.path]))
            return
        units = Units.of(seen.array, self.path)
        entries = run_sync(self._entries(view, self.path))
        chunks = [key for key in entries if units.pattern.fullmatch(key)]
        if not self.path:  # its index and the copy lie in it
            for key in chunks:
                staging.delete(key)
            return
        staging.clear(self.path)
        documents = {key_below(self.path, name) for name in NAMES}
        for key in entries.keys() - documents - set(chunks):
            staging.place(key, entries[key])

    def _missing_groups(self, view: View) -> list[str]:
        """Return the paths above a new array at which there is no group.

        Raises
        ------
        OptionError
            If there is an array above it.
        """
        parts = self.path.split("/") if self.path else []
        missing = []
        for above in ("/".join(parts[:depth]) for depth in range(len(parts))):
            there = run_sync(read_documents(self.repository, view, above))
            if Documents.of({name: data for name, (data, _) in there.items()}) is not None:
                raise OptionError(
                    f"{self.repository.place.name}/{self.path}: {above or '/'!r} is an array, in which none can lie."
                )
            if "zarr.json" not in there and run_sync(self._read(view, [key_below(above, ".zgroup")])) == [
                None
            ]:
                missing.append(above)
        return missing

    def _put_into_groups(self, staging: Staging, view: View, target: Documents) -> None:
        """Mend the consolidated metadata of groups above, which repeat the array's."""
        parts = self.path.split("/") if self.path else []
        name = "zarr.json" if target.zarr_format == 3 else ".zmetadata"
        keys = ["/".join([*parts[:depth], name]) for depth in range(len(parts))]
        for depth, (key, found) in enumerate(zip(keys, run_sync(self._read(view, keys)), strict=True)):
            if found is None:
                continue
            mended = repeated_in(found[0], target.name, parts[depth:], target.main)
            if mended is not None:
                staging.expect(key, found[1])
                self._put(staging, {key: mended}, "")
