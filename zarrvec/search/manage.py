"""How is an index built and stored, how are rows deleted from it, and how is it dropped?

Each change is one commit on a zarrvec store, redone if others changed the index meanwhile. On other stores parts are
written under new names first and the head last, so that what is found is always whole. Source:
``specs/vector-index.md``, section "Changes".
"""

import datetime as dt
import math
import os
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.errors import ConflictError, CorruptError, OptionError, SearchError
from zarrvec.faces.cluster import Cluster
from zarrvec.faces.pipeline import REDO_LIMIT
from zarrvec.faces.writing import commit_once
from zarrvec.search.arrays import write_whole
from zarrvec.search.blocks import grid_of
from zarrvec.search.build import BUILD_MEMORY_BYTES, Builder, Built, Progress, Recipe, silent
from zarrvec.search.editing import (
    Editor,
    OvertakenError,
    changed,
    check_writable,
    clear,
    deleted_of,
    dtype_of,
    need_head,
    open_head,
    read_anew,
)
from zarrvec.search.extending import catch_up
from zarrvec.search.head import Head, new_id
from zarrvec.search.index import QUERIES, UNCOVERED, renumbered
from zarrvec.search.inputs import as_ids, as_queries, check_array, check_memory, is_integer
from zarrvec.search.metrics import Metric, unit_rows
from zarrvec.search.places import Snapshot
from zarrvec.search.space import are_too_large
from zarrvec.search.storing import write_segment
from zarrvec.search.units import Covered, stored_as
from zarrvec.types import VERSION

Int64 = npt.NDArray[np.int64]

LEAST_MEMORY_BYTES: Final = 1 << 20
"""An index is built in no less."""


def build_index(
    array: AnyArray,
    *,
    metric: Metric,
    nlist: int | None = None,
    bits: int = 8,
    queries: npt.ArrayLike | None = None,
    memory_bytes: int = BUILD_MEMORY_BYTES,
    seed: int = 0,
    spool: str | None = None,
    client: Any = None,
    progress: Progress = silent,
) -> Head:
    """Build an index of all rows, in place of any that is there; deleted rows stay deleted.

    The parameters are those of `zarrvec.search.accessor.VectorAccessor.build_index`.
    """
    if not (is_integer(bits) and bits in (4, 8)):
        raise OptionError(f"bits={bits!r}: expected 8, or 4 to read half of each code")
    if nlist is not None and not (is_integer(nlist) and nlist >= 1):
        raise OptionError(
            f"nlist={nlist!r}: expected posting lists, at least 1; or None for one for 100 rows"
        )
    check_writable(array)
    memory_bytes = check_memory(memory_bytes, LEAST_MEMORY_BYTES)
    if not (is_integer(seed) and seed >= 0):
        raise OptionError(f"seed={seed!r}: expected an integer, 0 or more")
    if spool is not None and not _is_folder(spool):
        raise OptionError(f"spool={spool!r}: expected a folder that is there; or None for that of the system")
    nlist, bits, seed = None if nlist is None else int(nlist), int(bits), int(seed)  # numpy's overflow
    started = time.perf_counter()
    snapshot = Snapshot.of(array)
    source = snapshot.array
    check_array(source)
    measured = None if queries is None else as_queries(queries, source.shape[-1])[0]
    if measured is not None and not len(measured):
        raise OptionError(
            "queries hold none: expected some hundred to measure the recall on; or None to measure it on rows"
        )
    if measured is not None and are_too_large(measured, metric):
        wrong = np.flatnonzero([are_too_large(query, metric) for query in measured])
        raise OptionError(
            f"{wrong.size} of {len(measured)} queries are too large for an index, the first is query {wrong[0]}: its largest "
            f"number is {np.abs(measured[wrong[0]]).max():.3g}, and products of such are beyond float32. Searches for them compare "
            "all rows, whatever was measured; leave them out, or scale rows and queries"
        )
    if measured is not None and metric == "cosine":
        measured = unit_rows(measured)[0]  # float32 holds these
    recipe = Recipe(
        metric=metric,
        nlist=nlist,
        queries=measured,
        memory_bytes=memory_bytes,
        seed=seed,
    )
    options = {"nlist": nlist, "bits": bits, "memory_bytes": memory_bytes, "seed": seed}
    with ExitStack() as stack:
        builder = Builder(source, recipe, progress, spool)
        if client is not None:
            from zarrvec.search.sharing import SharedBuilder

            cluster = stack.enter_context(Cluster(client))
            cluster.check_reached(array.store_path)
            builder = SharedBuilder(source, recipe, progress, cluster)
        covered, before = snapshot.covered(), _head_before(snapshot)
        built = builder.run()
        return store(
            array, snapshot, covered, before, built, recipe.metric, options, measured, started, progress
        )


def _is_folder(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and Path(value).is_dir()


def store(
    array: AnyArray,
    snapshot: Snapshot,
    covered: Covered | None,
    before: Head | None,
    built: Built,
    metric: Metric,
    options: dict[str, Any],
    queries: npt.NDArray[np.float64] | None,
    started: float,
    progress: Progress,
) -> Head:
    """Write an index that was built from a snapshot, and let go of its lists.

    What others changed in the array since then is not covered, whatever they did to its index; on stores without versions,
    what they say of it in a head that is another one than `before`, which was there when rows began to be read. Rows that they
    appended become a segment.
    """

    def write() -> Head:
        return _store(array, snapshot, covered, before, built, metric, options, queries, started, progress)

    with closing(built.lists):
        for _ in range(REDO_LIMIT):
            try:
                head = commit_once(array, write)
            except OvertakenError:  # it was dropped, and what had been written of this one too
                continue
            with suppress(ConflictError):  # who appends next does it
                catch_up(array, head)
            return head
    raise _overtaken(array)


def _store(
    array: AnyArray,
    snapshot: Snapshot,
    covered: Covered | None,
    before: Head | None,
    built: Built,
    metric: Metric,
    options: dict[str, Any],
    queries: npt.NDArray[np.float64] | None,
    started: float,
    progress: Progress,
) -> Head:
    if built.beyond.size:
        covered = _without(covered, snapshot, built.beyond)
    now = Snapshot.of(array)
    editor = Editor(now)
    segment = write_segment(
        editor.group,
        new_id(),
        built.lists,
        counts=built.counts,
        layout=built.layout,
        rows=built.rows,
        spread=built.spread,
        radii=built.table.heads["radius"],
        centroids=built.table,
        groups=built.groups,
        origin=built.origin,
        progress=lambda done, total: progress("write", done, total),
    )
    head = Head(
        revision=new_id(),
        metric=metric,
        width=built.layout.width,
        dtype=dtype_of(array),
        id_bytes=built.layout.id_bytes,
        leading=snapshot.array.shape[:-1],
        **stored_as(snapshot.array)._asdict(),
        grid=() if covered is None else snapshot.units().grid,
        segments=(segment,),
        calibration=built.calibration,
        trained_spread=built.trained_spread,
        second_from=min(built.second_from, float(np.finfo(np.float32).max)),  # JSON knows no infinity
        options=options,
        built={
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "zarrvec": VERSION,
            "rows": built.rows,
            "seconds": {
                **{stage: round(taken, 3) for stage, taken in built.seconds.items()},
                "all": round(time.perf_counter() - started, 3),
            },
        },
    )
    if queries is not None:
        write_whole(editor.group, QUERIES, queries.astype("<f4"))
    return _finish(array, editor, head, covered, before, built.left_out)


def _finish(
    array: AnyArray,
    editor: Editor,
    built: Head,
    covered: Covered | None,
    before: Head | None,
    left_out: Int64,
) -> Head:
    """Write the head, and take over the deleted rows of whatever index is there by then, and where it was cut."""
    for _ in range(REDO_LIMIT):
        seen = read_anew(array, lambda: _look_again(array, editor))
        head = built if seen.now.is_versioned else _cut_like(built, before, seen.newest)
        unlisted = renumbered(left_out[left_out < head.covered], head.leading, seen.now.array.shape[:-1])
        if not np.isin(unlisted, seen.deleted).all():
            raise ConflictError(
                f"array {array.name!r}: rows that were deleted when this began can be found again, but are in none of its "
                "lists; call optimize() once more."
            )
        try:
            head = editor.finish(head, covered, seen.deleted, sweep=True)
        except OvertakenError:
            continue
        if seen.inside is not None:
            _clear_inside(seen.inside)
        return head
    raise _overtaken(array)


class _Seen(NamedTuple):
    """What is there when an index is about to be replaced."""

    now: Snapshot
    """The array, and where its index belongs."""
    inside: Snapshot | None
    """Where one may be that is replaced too."""
    newest: Head | None
    """The head that counts."""
    deleted: Int64
    """By that head."""


def _look_again(array: AnyArray, editor: Editor) -> _Seen:
    now = Snapshot.of(array)
    inside = now.inside()
    newest = editor.look_again(now)
    if newest is None and inside is not None:
        newest = open_head(inside)
        return _Seen(now, inside, newest, deleted_of(inside, newest))
    return _Seen(now, inside, newest, deleted_of(now, newest))


def _head_before(snapshot: Snapshot) -> Head | None:
    """Return the head that counts before rows are read, where only heads tell of rows that were cut off."""
    if snapshot.is_versioned:
        return None
    with suppress(CorruptError):
        head = open_head(snapshot)
        inside = snapshot.inside() if head is None else None
        return head if inside is None else open_head(inside)
    return None


def _cut_like(head: Head, before: Head | None, newest: Head | None) -> Head:
    """Return a head without the rows that others took out of the index after `before`: lists have them as they were."""
    if newest is None or newest.leading[0] >= head.leading[0]:
        return head
    if before is not None and _rows_of(before) == _rows_of(newest):
        return head
    return changed(head, leading=(newest.leading[0], *head.leading[1:]), cut=True)


def _rows_of(head: Head) -> tuple[object, ...]:
    """Return what a head says of the rows in its lists."""
    return head.leading, head.cut, head.segments


def _clear_inside(inside: Snapshot) -> None:
    """Delete an index that was replaced by one elsewhere, or it would come back when that is dropped."""
    with suppress(CorruptError):  # whoever meets it is told
        if inside.head() is not None and inside.target.store.supports_deletes:
            clear(inside)


def _overtaken(array: AnyArray) -> ConflictError:
    return ConflictError(
        f"array {array.name!r}: others changed its index {REDO_LIMIT} times meanwhile; let fewer write at once."
    )


def _without(covered: Covered | None, snapshot: Snapshot, ids: Int64) -> Covered:
    """Return a coverage without the units of rows that are in no list, so that these are compared one by one."""
    array = snapshot.array
    if covered is None:
        raise SearchError(
            f"{len(ids)} rows of {array.name!r} can't be indexed, the first is row {ids[0]}: its squared length is above "
            "1e36, near the end of float32. Scale the vectors; or keep the array on a zarrvec store, where such rows are compared one "
            "by one"
        )
    rows = np.zeros(array.shape[:-1], dtype=np.bool_)
    rows.reshape(-1)[ids] = True
    units = grid_of(array).units_of(rows)
    return covered._replace(generations=np.where(units, np.uint64(UNCOVERED), covered.generations))


def drop_index(array: AnyArray) -> bool:
    """Delete the index of an array, or what is left of one; return whether there was anything."""
    check_writable(array)

    def drop() -> bool:
        snapshot = Snapshot.of(array)
        is_dropped, inside = clear(snapshot), snapshot.inside()
        if inside is not None and inside.is_there():
            is_dropped |= clear(inside)
        return is_dropped

    return commit_once(array, drop)


def delete(array: AnyArray, ids: npt.ArrayLike) -> int:
    """Keep rows from being found; return how many of them could be found before."""
    check_writable(array)

    def mark() -> int:
        snapshot = Snapshot.of(array)
        head = need_head(snapshot)
        checked = as_ids(ids, math.prod(snapshot.array.shape[:-1]))
        before = deleted_of(snapshot, head)
        deleted = np.union1d(before, checked)
        if len(deleted) > len(before):
            Editor(snapshot).finish(changed(head), None, deleted)
        return len(deleted) - len(before)

    for _ in range(REDO_LIMIT):
        try:
            return commit_once(array, lambda: read_anew(array, mark))
        except OvertakenError:
            continue
    raise _overtaken(array)
