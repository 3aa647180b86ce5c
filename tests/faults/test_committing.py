"""A race, a lost response or a crash at any request: nothing committed is lost, nothing uncommitted is visible."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.engine import committer, writer
from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.listing import list_entries
from zarrvec.engine.reader import Request
from zarrvec.engine.staging import Staging
from zarrvec.errors import (
    BackendUnsafeError,
    ConflictError,
    StorageError,
    UnknownOutcomeError,
    ZarrVecError,
)
from zarrvec.faces.store import ZarrVecStore
from zarrvec.layout import fold
from zarrvec.objects.memory import MemoryObjects
from zarrvec.repository import Place, Repository, StaleError
from zarrvec.testing.faults import Fault, FaultyObjects
from zarrvec.testing.proxy import FaultRule

Values = dict[str, bytes]


class Store:
    """One store in memory, and as many processes as a test opens on it."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.stored: dict[str, tuple[bytes, float]] = {}
        self._count = itertools.count()

    def process(self, *faults: Fault, staleness: float = 3600.0, **place: Any) -> "Process":
        return Process(self, next(self._count), list(faults), staleness, place)

    def contents(self, at: int | None = None) -> Values:
        """Read all of a version as a new process does, with every checksum."""
        repository = self.process().repository
        if at is not None:
            repository = Repository(repository.place, at=at)
        return run_sync(contents(repository))

    def packs(self) -> int:
        return sum(path.startswith("packs/") for path in self.stored)

    def commits(self) -> int:
        return sum(path.startswith("refs/heads/") for path in self.stored)


class Process:
    def __init__(
        self, store: Store, number: int, faults: list[Fault], staleness: float, place: dict[str, Any]
    ) -> None:
        self.objects = FaultyObjects(MemoryObjects("memory://faults", store.stored), faults)
        place = {"protocol": "memory", "root": store.name, "options": {"process": number}, **place}
        self.repository = Repository(Place(**place), max_staleness=staleness)

        async def install() -> None:
            engine = engines.Engine(self.repository.place, self.objects)
            engines._ENGINES[self.repository.place.identity] = engine

        run_sync(install())

    @property
    def store(self) -> ZarrVecStore:
        return ZarrVecStore(self.repository)

    def group(self) -> zarr.Group:
        return zarr.open_group(self.store, mode="a")

    def array(self, name: str = "x") -> zarr.Array:
        return zarr.open_array(self.store, path=name, mode="r+")

    def write(self, puts: Values | None = None, **more: Any) -> None:
        run_sync(self.repository.write(puts, **more))

    def meet(self, operation: Any, action: Callable[[], Awaitable[object]], path: str = "") -> None:
        """Let something happen just before the next request of a kind."""
        self.objects.faults.append(Fault(kind="run", operation=operation, path=path, action=action))


async def contents(repository: Repository) -> Values:
    engine = await repository.engine()
    view = await repository.view()
    keys = [key async for key, _ in list_entries(engine.reader, view, "")]
    found = await engine.read(view, [Request(key) for key in keys])
    return {key: value.data for key, value in zip(keys, found, strict=True) if value is not None}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def small_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in (
        (fold, {"DELTA_BYTES": 600, "DELTA_LIMIT_BYTES": 2400, "TINY_COMMIT_BYTES": 100}),
        (committer, {"DELTA_LIMIT_BYTES": 2400, "TINY_COMMIT_BYTES": 100}),
        (writer, {"TINY_COMMIT_BYTES": 100}),
    ):
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)


BIG = bytes(range(256)) * 40


# -- the table of conflicts, row by row ---------------------------------------------------------------------------


def test_other_keys_both_land_and_nothing_is_uploaded_twice(store: Store) -> None:
    store.process().write({"zarr.json": b"{}"})
    mine, theirs = store.process(), store.process()
    run_sync(mine.repository.version())
    mine.meet("create", lambda: theirs.repository.write({"x/c/1": BIG}), "refs/heads")
    before = store.packs()
    mine.write({"x/c/0": BIG})
    assert store.packs() == before + 2
    assert mine.objects.count("put") == 1
    assert mine.objects.count("create", "refs/heads") == 2
    assert store.contents() == {"zarr.json": b"{}", "x/c/0": BIG, "x/c/1": BIG}


def test_a_lost_race_costs_two_requests_more(store: Store) -> None:
    store.process().write({"zarr.json": b"{}"})
    mine, theirs = store.process(), store.process()
    run_sync(mine.repository.version())
    mine.meet("create", lambda: theirs.repository.write({"x/c/1": BIG}), "refs/heads")
    before = len(mine.objects.calls)
    mine.write({"x/c/0": BIG})
    assert len(mine.objects.calls) - before == 2 + 2, mine.objects.calls[before:]


def test_a_whole_chunk_lands_after_theirs(store: Store) -> None:
    store.process().write({"x/c/0": b"first"})
    mine, theirs = store.process(), store.process()
    run_sync(mine.repository.version())
    mine.meet("create", lambda: theirs.repository.write({"x/c/0": b"theirs"}), "refs/heads")
    mine.write({"x/c/0": b"mine"})
    assert store.contents(at=2) == {"x/c/0": b"theirs"}
    assert store.contents(at=3) == {"x/c/0": b"mine"}


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("shards", [None, (100,)])
def test_parts_of_a_chunk_both_land(store: Store, shards: Any, compressors: Any) -> None:
    first = store.process()
    first.group().create_array(
        "x", shape=(100,), chunks=(50,), shards=shards, dtype="i4", compressors=compressors
    )
    first.array()[:] = np.arange(100)
    mine, theirs = store.process(), store.process()  # both would trust what they know for an hour
    arrays = mine.array(), theirs.array()
    for round_ in range(3):
        mine.meet("create", partial(asyncio.to_thread, put, arrays[1], 10, -round_ - 1), "refs/heads")
        commits = store.commits()
        arrays[0][20] = -100 - round_
        assert store.commits() == commits + 2
        assert not [fault for fault in mine.objects.faults if fault.times]
        expected = np.arange(100)
        expected[[10, 20]] = -round_ - 1, -100 - round_
        assert np.array_equal(store.process().array()[:], expected)


def put(array: zarr.Array, index: Any, value: Any) -> None:
    array[index] = value


def test_a_stale_process_redoes_a_part_without_end(store: Store) -> None:
    """What lost must be read again from the version that won, however long the handle trusts what it knows."""
    first = store.process()
    first.group().create_array("x", shape=(8,), chunks=(8,), dtype="i4")
    processes = [store.process() for _ in range(4)]
    arrays = [process.array() for process in processes]
    for turn in range(32):
        arrays[turn % 4][turn % 8] = turn + 1
    assert store.process().array()[:].tolist() == list(range(25, 33))
    for process in processes:
        assert process.objects.count("create", "refs/heads") <= 8 * 3, "it went round and round"


def test_part_of_a_chunk_in_a_transaction_conflicts(store: Store) -> None:
    first = store.process()
    first.group().create_array("x", shape=(100,), chunks=(50,), dtype="i4")
    first.array()[:] = 1
    before = store.contents()
    mine, theirs = store.process(), store.process()
    array, other = mine.array(), theirs.array()
    with pytest.raises(ConflictError) as caught, zarrvec.transaction(array):
        array[20] = 2
        mine.group().attrs["new"] = 1
        other[10] = 3
    assert caught.value.keys == ("x/c/0",)
    after = store.contents()
    assert {key for key in after if after[key] != before[key]} == {"x/c/0"}
    assert store.process().array()[[10, 20]].tolist() == [3, 1]
    with zarrvec.transaction(array):  # redone, it lands
        array[20] = 2
    assert store.process().array()[[10, 20]].tolist() == [3, 2]


def test_equal_parts_in_two_transactions_conflict(store: Store) -> None:
    """Two that count one up make the same bytes; the second must not land unseen."""
    first = store.process()
    first.group().create_array("x", shape=(4,), chunks=(4,), dtype="i4")
    first.array()[:] = 7
    mine, theirs = store.process().array(), store.process().array()
    with pytest.raises(ConflictError), zarrvec.transaction(mine):
        mine[0] = mine[0] + 1
        with zarrvec.transaction(theirs):
            theirs[0] = theirs[0] + 1
    assert store.process().array()[0] == 8


def test_blind_whole_chunks_in_a_transaction_land(store: Store) -> None:
    first = store.process()
    first.group().create_array("x", shape=(100,), chunks=(50,), dtype="i4")
    mine, theirs = store.process().array(), store.process().array()
    with zarrvec.transaction(mine):
        mine[:50] = 1
        theirs[:] = 2
    assert store.process().array()[[0, 60]].tolist() == [1, 2]


def test_a_changed_document_conflicts(store: Store) -> None:
    store.process().group().attrs["a"] = 1
    mine, theirs = store.process(), store.process()
    groups = mine.group(), theirs.group()
    groups[1].attrs["b"] = 2
    with pytest.raises(ConflictError) as caught:
        groups[0].attrs["c"] = 3
    assert caught.value.keys == ("zarr.json",)
    assert dict(store.process().group().attrs) == {"a": 1, "b": 2}
    again = mine.group()  # the same handle, opened again, sees what it lost to
    again.attrs["c"] = 3
    assert dict(store.process().group().attrs) == {"a": 1, "b": 2, "c": 3}


def test_documents_created_alike_are_no_conflict(store: Store) -> None:
    mine, theirs = store.process(), store.process()
    assert run_sync(mine.repository.read_one(Request("zarr.json"))) is None
    assert run_sync(theirs.repository.read_one(Request("zarr.json"))) is None
    mine.write({"zarr.json": b"{}"})
    theirs.write({"zarr.json": b"{}"})
    assert store.contents() == {"zarr.json": b"{}"}


def test_documents_changed_alike_conflict(store: Store) -> None:
    """Two plain resizes to the same shape would hide that both append."""
    first = store.process()
    first.group().create_array("x", shape=(4,), chunks=(4,), dtype="i4")
    mine, theirs = store.process().array(), store.process().array()
    theirs.append(np.ones(4, "i4"))
    with pytest.raises(ConflictError):
        mine.append(np.full(4, 2, "i4"))
    assert store.process().array()[:].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("lengths", [(4, 4), (3, 3), (3, 5), (8, 1)])
def test_two_appends_both_land(store: Store, lengths: tuple[int, int]) -> None:
    first = store.process()
    first.group().create_array("x", shape=(4,), chunks=(4,), dtype="i4")
    mine, theirs = store.process(), store.process()
    array, other = mine.array(), theirs.array()
    mine.meet(
        "create",
        lambda: asyncio.to_thread(zarrvec.append, other, np.full(lengths[1], 2, "i4")),
        "refs/heads",
    )
    assert zarrvec.append(array, np.full(lengths[0], 1, "i4")) == (4 + sum(lengths),)
    assert array.shape == (4 + sum(lengths),)
    assert store.process().array()[4:].tolist() == [2] * lengths[1] + [1] * lengths[0]


def test_threads_append_through_one_handle(store: Store) -> None:
    process = store.process()
    process.group().create_array("x", shape=(0,), chunks=(4,), dtype="i4")
    array = process.array()

    async def all_of_them() -> None:
        await asyncio.gather(
            *(asyncio.to_thread(zarrvec.append, array, np.full(4, k, "i4")) for k in range(24))
        )

    asyncio.run(all_of_them())
    assert sorted(store.process().array()[:].tolist()) == sorted(list(range(24)) * 4)


def test_what_a_stale_process_deletes_is_deleted(store: Store) -> None:
    store.process().write({"zarr.json": b"{}"})
    mine, theirs = store.process(), store.process()
    run_sync(mine.repository.version())
    theirs.write({"x/c/0": b"1", "y/c/0": b"1", "z/c/0": b"1"})
    mine.write(deletes=["x/c/0"])
    run_sync(mine.repository.version())
    theirs.write({"y/c/0": b"2"})
    mine.write(clears=["y"])
    assert store.contents() == {"zarr.json": b"{}", "z/c/0": b"1"}


def test_deleting_what_is_not_there_makes_no_commit(store: Store) -> None:
    process = store.process()
    process.write({"zarr.json": b"{}"})
    process.write(deletes=["x/c/0"])
    process.write(clears=["x"])
    assert store.commits() == 1


# -- what a handle remembers of documents ------------------------------------------------------------------------


def test_documents_beyond_the_delta_are_written_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that was folded into a page is still the one that this handle wrote."""
    monkeypatch.setattr(fold, "METADATA_BYTES", 0)
    monkeypatch.setattr(fold, "DELTA_BYTES", 0)
    group = store.process().group()
    for number in range(5):
        group.attrs["a"] = number
    assert dict(store.process().group().attrs) == {"a": 4}


def test_an_aborted_transaction_leaves_no_trace(store: Store) -> None:
    process = store.process()
    group = process.group()
    group.attrs["a"] = 1
    with pytest.raises(KeyError), zarrvec.transaction(group):
        group.attrs["a"] = 2
        assert dict(process.group().attrs) == {"a": 2}
        raise KeyError
    assert dict(process.group().attrs) == {"a": 1}
    group = process.group()
    group.attrs["a"] = 3
    assert dict(store.process().group().attrs) == {"a": 3}


def test_a_thread_that_reads_does_not_excuse_a_stale_transaction(store: Store) -> None:
    """What others read through the same handle says nothing of what the transaction rests on."""
    process = store.process()
    process.group().attrs["n"] = 1

    def outside() -> None:
        group = process.group()
        group.attrs["n"] = group.attrs["n"] + 1

    async def in_a_thread() -> None:
        await asyncio.get_running_loop().run_in_executor(None, outside)

    with pytest.raises(ConflictError), zarrvec.transaction(process.store):
        group = process.group()
        asyncio.run(in_a_thread())
        group.attrs["n"] = group.attrs["n"] + 1
    assert dict(store.process().group().attrs) == {"n": 2}


# -- folds and races ------------------------------------------------------------------------------------------------


def fill(process: Process, array: str = "x", count: int = 40, size: int = 200, seed: int = 0) -> Values:
    values = {f"{array}/c/{k}": bytes([seed, k]) * (size // 2) for k in range(count)}
    process.write(values)
    return values


@pytest.mark.usefixtures("small_fold")
def test_a_fold_is_used_again_after_a_lost_race(store: Store) -> None:
    expected = fill(store.process())
    mine, theirs = store.process(), store.process()
    run_sync(mine.repository.version())
    mine.meet("create", lambda: theirs.repository.write({"y/c/0": b"1", "x/c/3": b"2"}), "refs/heads")
    expected |= {"y/c/0": b"1", "x/c/3": b"2"} | fill(mine, seed=1, count=30) | {"x/c/3": b"\x01\x03" * 100}
    assert mine.objects.count("put") == 1, "the pages were written twice"
    assert store.contents() == expected


@pytest.mark.usefixtures("small_fold")
@pytest.mark.parametrize("theirs_does", ["fold", "clear all", "clear array", "clear other", "delete"])
def test_a_fold_meets_a_winner(store: Store, theirs_does: str) -> None:
    first = store.process()
    expected = fill(first, "x") | fill(first, "y", count=4) | fill(first, "z", count=2, size=20)
    mine, theirs = store.process(), store.process()
    run_sync(mine.repository.version())

    async def act() -> None:
        if theirs_does == "fold":
            await theirs.repository.write({f"y/c/{k}": b"\x05" * 150 for k in range(40)})
        elif theirs_does == "delete":
            await theirs.repository.write(deletes=["x/c/39", "z/c/1"])
        else:
            prefix = {"clear all": "", "clear array": "x", "clear other": "y"}[theirs_does]
            await theirs.repository.write(clears=[prefix])

    mine.meet("create", act, "refs/heads")
    if theirs_does == "fold":
        expected |= {f"y/c/{k}": b"\x05" * 150 for k in range(40)}
    elif theirs_does == "delete":
        del expected["x/c/39"], expected["z/c/1"]
    elif theirs_does == "clear all":
        expected = {}
    else:
        gone = "x/" if theirs_does == "clear array" else "y/"
        expected = {key: value for key, value in expected.items() if not key.startswith(gone)}
    expected |= fill(mine, "x", count=30, seed=1)
    assert store.contents() == expected
    for number in range(1, store.commits() + 1):
        store.contents(at=number)  # every one can be read


@pytest.mark.usefixtures("small_fold")
@pytest.mark.parametrize("theirs_writes", [{"x/c/3": BIG}, {"new/c/1": BIG}, {"y/c/0": b"1"}])
def test_a_clear_with_a_fold_meets_a_winner(store: Store, theirs_writes: Values) -> None:
    first = store.process()
    fill(first, "x")
    others = fill(first, "y", count=4)
    mine, theirs = store.process(), store.process()
    run_sync(mine.repository.version())
    mine.meet("create", lambda: theirs.repository.write(theirs_writes), "refs/heads")
    values = {f"x/c/{k}": bytes([9, k]) * 60 for k in range(30)}
    mine.write(values, clears=["x", "new"])
    kept = {key: value for key, value in theirs_writes.items() if key.startswith("y/")}
    assert store.contents() == others | kept | values


# -- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fail_before", "fail_after", "refuse"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_commit_lands_once_whatever_the_response(store: Store, kind: Any, times: int) -> None:
    store.process().write({"zarr.json": b"{}"})
    process = store.process(Fault(kind=kind, operation="create", path="refs/heads", times=times))
    process.write({"x/c/0": BIG})
    assert store.contents() == {"zarr.json": b"{}", "x/c/0": BIG}
    assert store.commits() == 2
    assert store.packs() == 1
    process.write({"x/c/1": BIG})
    assert store.commits() == 3


def test_an_unknown_outcome_is_called_unknown(store: Store) -> None:
    store.process().write({"zarr.json": b"{}"})
    process = store.process()
    run_sync(process.repository.version())
    process.objects.faults = [
        Fault(kind="fail_after", operation="create", path="refs/heads"),
        Fault(kind="fail_before", operation="get", times=100),
    ]
    with pytest.raises(UnknownOutcomeError):
        process.write({"x/c/0": BIG})
    process.objects.faults = []
    assert "x/c/0" in store.contents()  # here it did
    process.write({"x/c/1": BIG})  # and the process goes on behind it
    assert store.commits() == 3
    assert store.contents() == {"zarr.json": b"{}", "x/c/0": BIG, "x/c/1": BIG}


def test_a_failed_upload_commits_nothing_and_the_next_write_works(store: Store) -> None:
    process = store.process(Fault(kind="fail_before", operation="put"))
    with pytest.raises(StorageError):
        process.write({"x/c/0": BIG})
    assert store.contents() == {}
    process.write({"x/c/0": BIG})
    assert store.contents() == {"x/c/0": BIG}


def test_a_commit_waits_for_its_packs_and_is_as_old_as_their_last(store: Store) -> None:
    process = store.process()
    seen: list[tuple[int, int]] = []

    async def look() -> None:
        await asyncio.sleep(0.05)
        seen.append((store.commits(), time.time_ns() // 1000))

    process.meet("put", look)
    process.write({"x/c/0": BIG})
    assert [commits for commits, _ in seen] == [0]
    (commit,) = run_sync(process.repository.history())
    assert commit.time_us >= seen[0][1]


def test_one_failed_upload_of_many_in_a_transaction(store: Store) -> None:
    process = store.process(Fault(kind="fail_before", operation="put", skip=2), pack_bytes=4096)
    process.group().create_array("x", shape=(40, 1000), chunks=(1, 1000), dtype="u1", compressors=None)
    array = process.array()
    before = store.contents()
    with pytest.raises(StorageError), zarrvec.transaction(array):
        array[:] = 3
    assert store.contents() == before
    with zarrvec.transaction(array):
        array[:] = 4
    assert (store.process().array()[:] == 4).all()


def in_transaction(process: Process) -> None:
    array = process.array("arr")
    with zarrvec.transaction(array, message="m"):
        array.resize((30,))
        array[15:] = 9
        process.group().attrs["n"] = 1


OPERATIONS: dict[str, Callable[[Process], object]] = {
    "write": lambda process: fill(process, "x", seed=1),
    "clear and write": lambda process: process.write({"x/c/1": BIG}, clears=["x"]),
    "delete": lambda process: process.write(deletes=["x/c/1", "x/c/2"]),
    "array": lambda process: put(process.array("arr"), slice(3, 17), 5),
    "create": lambda process: process.group().create_array("new", data=np.arange(10)),
    "append": lambda process: zarrvec.append(process.array("arr"), np.ones(7, "i4")),
    "transaction": in_transaction,
    "revert": lambda process: zarrvec.revert(process.store, 2),
}


@pytest.mark.usefixtures("small_fold")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["crash_before", "crash_after"])
def test_a_crash_at_every_request(operation: str, kind: Any) -> None:
    """The store is as before or as after one of the operation's commits, never between."""

    def prepare(*faults: Fault) -> tuple[Store, Process]:
        store = Store()
        first = store.process()
        first.group().create_array("arr", shape=(20,), chunks=(5,), dtype="i4")
        fill(first)
        return store, store.process(*faults, pack_bytes=2048)

    store, process = prepare()
    base = store.commits()
    OPERATIONS[operation](process)
    stages = [store.contents(at=number) for number in range(base, store.commits() + 1)]
    requests = len(process.objects.calls)
    assert requests > 1
    for number in range(requests):
        store, process = prepare(Fault(kind=kind, skip=number))
        try:
            OPERATIONS[operation](process)
        except (ZarrVecError, StorageError):
            pass
        else:
            assert kind == "crash_after" or store.contents() == stages[-1]
        seen = store.contents()
        assert seen in stages, f"request {number} of {requests}"
        assert seen == stages[store.commits() - base]
        store.process().write({"after": b"1"})  # and the store goes on
        assert store.contents() == {**seen, "after": b"1"}


def test_a_crash_while_a_store_is_made(store: Store) -> None:
    for kind, number in itertools.product(["crash_before", "crash_after"], range(8)):
        made = Store()
        process = made.process(Fault(kind=kind, skip=number))
        with_error = None
        try:
            process.write({"zarr.json": b"{}", "x/c/0": BIG})
        except StorageError as error:
            with_error = error
        seen = made.contents()
        assert seen in ({}, {"zarr.json": b"{}", "x/c/0": BIG})
        assert seen or with_error
        made.process().write({"y": b"1"})
        assert made.contents() == {**seen, "y": b"1"}


def test_a_storage_that_overwrites_is_refused(store: Store) -> None:
    class Overwriting(FaultyObjects):
        async def create(self, path: str, data: bytes) -> bool:
            await self.inner.put(path, data)
            return True

    process = store.process()

    async def install() -> None:
        engine = engines.Engine(
            process.repository.place, Overwriting(MemoryObjects("memory://o", store.stored))
        )
        engines._ENGINES[process.repository.place.identity] = engine

    run_sync(install())
    with pytest.raises(BackendUnsafeError, match="twice"):
        process.write({"x/c/0": BIG})
    assert store.stored == {}


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("create", "fail_before"), ("create", "fail_after"), ("create", "refuse"),
        ("delete", "fail_before"), ("delete", "fail_after"),
    ],
)  # fmt: skip
def test_a_look_whether_creating_is_safe_that_fails_is_done_again(
    store: Store, operation: Any, kind: Any, skip: int
) -> None:
    process = store.process(Fault(kind=kind, operation=operation, path="refs/probe/", skip=skip))
    process.write({"x/c/0": BIG})
    assert store.contents() == {"x/c/0": BIG}


@pytest.mark.parametrize(("kind", "error"), [("fail_before", StorageError), ("refuse", BackendUnsafeError)])
def test_a_storage_that_never_creates_anything(store: Store, kind: Any, error: type[StorageError]) -> None:
    process = store.process(Fault(kind=kind, operation="create", path="refs/probe/", times=9))
    with pytest.raises(error) as caught:
        process.write({"x/c/0": BIG})
    assert type(caught.value) is error
    assert store.stored == {}


def test_a_group_shares_a_commit_and_a_stale_one_fails_alone(store: Store) -> None:
    process = store.process()
    process.write({"zarr.json": b"{}", "x/c/0": b"1"})

    async def stale() -> None:
        staging: Staging = await process.repository.begin()
        staging.expect("x/c/0", 77)
        await process.repository.stage(staging, {"x/c/0": b"stale", "x/c/9": b"stale"})
        await process.repository.finish(staging)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(
            *(process.repository.write({f"y/c/{k}": BIG}) for k in range(5)),
            stale(),
            *(process.repository.write({f"y/c/{k}": BIG}) for k in range(5, 10)),
            return_exceptions=True,
        )

    results = run_sync(all_of_them())
    assert [type(result) for result in results if result is not None] == [StaleError]
    assert store.commits() == 2
    expected = {"zarr.json": b"{}", "x/c/0": b"1"} | {f"y/c/{k}": BIG for k in range(10)}
    assert store.contents() == expected


# -- through a real S3 server --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
@pytest.mark.parametrize("fault", ["reset_after", "reset_before", "internal", "slowdown", "conflict"])
def test_a_commit_lands_once_on_s3(proxied_bucket: Any, s3_proxy: Any, fault: Any, backend: str) -> None:
    url = f"zarrvec::{proxied_bucket.url}/data.zarr"
    options = {"s3": proxied_bucket.storage_options, "zarrvec": {"backend": backend}}
    array = zarr.create_array(url, shape=(10, 100), chunks=(1, 100), dtype="i4", storage_options=options)
    before = len(zarrvec.history(array))
    s3_proxy.configure(rules=[FaultRule(fault=fault, method="PUT", path="/refs/heads/")])
    array[:] = 7
    s3_proxy.configure(rules=[])
    assert len(zarrvec.history(array)) == before + 1
    array[2] = 8
    assert len(zarrvec.history(array)) == before + 2
    seen = zarr.open_array(url, mode="r", storage_options=options)[:]
    assert seen[:, 0].tolist() == [7, 7, 8, *[7] * 7]
