"""Any sequence of operations, by several sessions on one store, against a dict of versions."""

import asyncio
import os
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from zarrvec.engine import committer, writer
from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.staging import Staging
from zarrvec.errors import ConflictError
from zarrvec.faces import versions
from zarrvec.format import manifest
from zarrvec.format.keys import is_below, is_metadata
from zarrvec.layout import fold
from zarrvec.objects.memory import MemoryObjects
from zarrvec.repository import Place, Repository, StaleError
from zarrvec.testing.faults import FaultyObjects

SESSIONS = 3
ARRAYS = ["a", "a/b", "ab", "z"]
DOCUMENTS = ["zarr.json", "a/zarr.json", "a/b/zarr.json", "ab/zarr.json", "z/zarr.json", "a/.zattrs"]

sessions = st.integers(0, SESSIONS - 1)
documents = st.sampled_from(DOCUMENTS)
chunks = st.builds("{}/c/{}".format, st.sampled_from(ARRAYS), st.integers(0, 24))
prefixes = st.sampled_from(["", "a", "a/b", "ab", "a/c", "z/c", "nothing"])
values = st.builds(
    lambda size, fill: bytes([fill]) * size,
    st.sampled_from([0, 1, 8, 20, 60, 200, 500, 1500]),
    st.integers(0, 255),
)
many_values = st.dictionaries(chunks, values, min_size=1, max_size=12)
small_values = st.binary(min_size=1, max_size=90)

Model = dict[str, bytes]


@pytest.fixture(autouse=True)
def _small_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold, split and spill all the time."""
    monkeypatch.setattr(fold, "DELTA_BYTES", 300)
    monkeypatch.setattr(fold, "METADATA_BYTES", 300)
    monkeypatch.setattr(fold, "DELTA_LIMIT_BYTES", 900)
    monkeypatch.setattr(committer, "DELTA_LIMIT_BYTES", 900)
    monkeypatch.setattr(fold, "INLINE_BYTES", 16)
    monkeypatch.setattr(fold, "TINY_COMMIT_BYTES", 100)
    monkeypatch.setattr(committer, "TINY_COMMIT_BYTES", 100)
    monkeypatch.setattr(writer, "TINY_COMMIT_BYTES", 100)
    monkeypatch.setattr(fold, "_APPEND_ENTRIES", 3)
    monkeypatch.setattr(manifest, "PAGE_ENTRIES", 5)
    monkeypatch.setattr(writer, "ROOT_INLINE_BYTES", 400)


class Open:
    """A transaction of one session, and what the model knows of it."""

    def __init__(self, staging: Staging, base: int, state: Model) -> None:
        self.staging = staging
        self.base = base
        self.state = state
        self.steps: list[tuple[str, Any]] = []
        self.expects: set[str] = set()
        self.written: set[str] = set()
        self.cleared: list[str] = []

    def knows(self, key: str) -> bool:
        return key in self.written or any(is_below(key, prefix) for prefix in self.cleared)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.name = uuid.uuid4().hex
        self.versions: list[Model] = [{}]
        self.generations: list[dict[str, int]] = [{}]
        self.repositories: list[Repository] = []
        self.notes: list[dict[str, int]] = [{} for _ in range(SESSIONS)]
        self.open: list[Open | None] = [None] * SESSIONS
        self.seed = 0
        for session in range(SESSIONS):
            self.repositories.append(self.fresh(session))

    def fresh(self, session: int) -> Repository:
        """Open the store as a new process would."""
        place = Place(protocol="memory", root=self.name, options={"session": session}, pack_bytes=1024)
        self.seed += 1
        objects = FaultyObjects(MemoryObjects("memory://model", self.objects), seed=self.seed)

        async def install() -> None:
            engines._ENGINES[place.identity] = engines.Engine(place, objects)

        run_sync(install())
        return Repository(place, max_staleness=0.0 if session % 2 else 3600.0)

    # -- the model ------------------------------------------------------------------------------------------------

    @property
    def newest(self) -> Model:
        return self.versions[-1]

    def landed(self, number: int, state: Model, changed: set[str]) -> None:
        if number == len(self.versions) - 1:
            assert state == self.newest, "a change was dropped"
            return
        assert number == len(self.versions), "not the next version"
        generations = {key: self.generations[-1].get(key, number) for key in state}
        generations |= dict.fromkeys(changed & state.keys(), number)
        self.versions.append(state)
        self.generations.append(generations)

    @staticmethod
    def apply(state: Model, puts: Model, deletes: list[str], clears: list[str]) -> Model:
        after = {
            key: value for key, value in state.items() if not any(is_below(key, prefix) for prefix in clears)
        }
        after.update(puts)
        for key in deletes:
            after.pop(key, None)
        return after

    def conflicts(self, session: int, puts: Model, deletes: list[str], clears: list[str]) -> bool:
        for key in [*puts, *deletes]:
            noted = self.notes[session].get(key)
            if not is_metadata(key) or noted is None or any(is_below(key, prefix) for prefix in clears):
                continue
            if noted == self.generations[-1].get(key, 0):
                continue
            created_alike = key in puts and noted == 0 and self.newest.get(key) == puts[key]
            deleted_alike = key in deletes and key not in self.newest
            if not created_alike and not deleted_alike:
                return True
        return False

    def note_written(
        self, session: int, number: int, puts: Model, deletes: list[str], clears: list[str]
    ) -> None:
        notes = self.notes[session]
        for key in notes:
            if any(is_below(key, prefix) for prefix in clears):
                notes[key] = 0
        notes |= {key: number for key in puts if is_metadata(key)}
        notes |= {key: 0 for key in deletes if is_metadata(key)}

    # -- rules ----------------------------------------------------------------------------------------------------

    def write(
        self, session: int, puts: Model, deletes: list[str] | None = None, clears: list[str] | None = None
    ) -> None:
        deletes, clears = deletes or [], clears or []
        repository = self.repositories[session]

        async def commit() -> int:
            staging = await repository.begin()
            for prefix in clears:
                staging.clear(prefix)
            await repository.stage(staging, puts, deletes)
            return (await repository.commit(staging)).number

        expected = self.conflicts(session, puts, deletes, clears)
        try:
            number = run_sync(commit())
        except ConflictError:
            assert expected
            return
        assert not expected
        state = self.apply(self.newest, puts, deletes, clears)
        self.landed(number, state, set(puts))
        self.note_written(session, number, puts, deletes, clears)

    @rule(session=sessions, puts=many_values)
    def put(self, session: int, puts: Model) -> None:
        self.write(session, puts)

    @rule(
        session=sessions,
        array=st.sampled_from(ARRAYS),
        size=st.sampled_from([3, 30, 200]),
        count=st.integers(10, 25),
    )
    def put_array(self, session: int, array: str, size: int, count: int) -> None:
        self.write(session, {f"{array}/c/{index}": bytes([index]) * size for index in range(count)})

    @rule(session=sessions, keys=st.lists(chunks, min_size=1, max_size=6, unique=True))
    def delete(self, session: int, keys: list[str]) -> None:
        self.write(session, {}, keys)

    @rule(session=sessions, prefix=prefixes)
    def clear(self, session: int, prefix: str) -> None:
        self.write(session, {}, [], [prefix])

    @rule(session=sessions, prefix=prefixes, puts=many_values)
    def clear_and_put(self, session: int, prefix: str, puts: Model) -> None:
        self.write(session, puts, [], [prefix])

    @rule(session=sessions, array=st.sampled_from(ARRAYS), keep=st.integers(0, 12), document=small_values)
    def resize(self, session: int, array: str, keep: int, document: bytes) -> None:
        gone = [
            key for key in self.newest if key.startswith(f"{array}/c/") and int(key.split("/")[-1]) >= keep
        ]
        self.write(session, {f"{array}/zarr.json": document}, gone)

    @rule(session=sessions, puts=st.dictionaries(documents, small_values, min_size=1, max_size=6))
    def write_documents(self, session: int, puts: Model) -> None:
        self.write(session, puts)

    @rule(session=sessions, key=documents)
    def delete_document(self, session: int, key: str) -> None:
        self.write(session, {}, [key])

    @rule(session=sessions, key=documents)
    def read_document(self, session: int, key: str) -> None:
        repository = self.repositories[session]

        async def read() -> tuple[int, Any]:
            from zarrvec.engine.reader import Request

            view = await repository.view()
            return view.version.number, await repository.read_one(Request(key), view)

        number, found = run_sync(read())
        assert (None if found is None else found.data) == self.versions[number].get(key)
        self.notes[session][key] = self.generations[number].get(key, 0)

    @rule(session=sessions, keys=st.lists(chunks, min_size=1, max_size=4, unique=True), tag=small_values)
    def partial(self, session: int, keys: list[str], tag: bytes) -> None:
        number = run_sync(add_tag(self.repositories[session], keys, tag))
        state = {**self.newest, **{key: self.newest.get(key, b"") + tag for key in keys}}
        self.landed(number, state, set(keys))

    @rule(
        works=st.lists(
            st.tuples(
                sessions, st.booleans(), st.lists(chunks, min_size=1, max_size=3, unique=True), small_values
            ),
            min_size=2,
            max_size=4,
        )
    )
    def at_once(self, works: list[tuple[int, bool, list[str], bytes]]) -> None:
        """Several write at the same time; each lands whole, one after the other."""
        works = [  # within a session disjoint keys, since a shared commit doesn't tell who was first
            (session, blind, [f"{index}/{key}" for key in keys], tag)
            if [other[0] for other in works].count(session) > 1
            else (session, blind, keys, tag)
            for index, (session, blind, keys, tag) in enumerate(works)
        ]

        async def blindly(repository: Repository, keys: list[str], tag: bytes) -> int:
            staging = await repository.begin()
            await repository.stage(staging, dict.fromkeys(keys, tag))
            return (await repository.commit(staging)).number

        async def all_of_them() -> list[int]:
            return await asyncio.gather(
                *(
                    (blindly if blind else add_tag)(self.repositories[session], keys, tag)
                    for session, blind, keys, tag in works
                )
            )

        numbers = run_sync(all_of_them())
        for number in sorted(set(numbers)):
            state = dict(self.newest)
            changed: set[str] = set()
            for mine, (_, blind, keys, tag) in zip(numbers, works, strict=True):
                if mine == number:
                    changed |= set(keys)
                    state |= {key: tag if blind else self.newest.get(key, b"") + tag for key in keys}
            self.landed(number, state, changed)

    @rule(session=sessions)
    def reopen(self, session: int) -> None:
        if (transaction := self.open[session]) is not None:
            run_sync(transaction.staging.discard())
            self.open[session] = None
        self.repositories[session] = self.fresh(session)
        self.notes[session] = {}

    @precondition(lambda self: len(self.versions) > 1)
    @rule(session=sessions, data=st.data())
    def revert(self, session: int, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.versions) - 1))
        past, now = self.versions[number], self.newest
        changed = {key for key in past if self.generations[number][key] != self.generations[-1].get(key, 0)}
        landed = versions.revert(self.repositories[session], number).number
        self.landed(landed, dict(past), changed)
        if landed == len(self.versions) - 1 and (changed or now.keys() - past.keys()):
            notes = self.notes[session]
            notes |= {key: landed for key in changed if is_metadata(key)}
            notes |= {key: 0 for key in now.keys() - past.keys() if is_metadata(key)}

    # -- transactions ---------------------------------------------------------------------------------------------

    @rule(session=sessions)
    def begin(self, session: int) -> None:
        if self.open[session] is None:
            staging = run_sync(self.repositories[session].begin_transaction())
            assert staging.version.number == len(self.versions) - 1
            self.open[session] = Open(staging, len(self.versions) - 1, dict(self.newest))

    def opened(self, session: int) -> Open | None:
        return self.open[session]

    @rule(session=sessions, puts=many_values, deletes=st.lists(chunks, max_size=3, unique=True))
    def put_inside(self, session: int, puts: Model, deletes: list[str]) -> None:
        if (mine := self.opened(session)) is None:
            return
        deletes = [key for key in deletes if key not in puts]
        run_sync(self.repositories[session].stage(mine.staging, puts, deletes))
        mine.steps.append(("put", (puts, deletes)))
        mine.state = self.apply(mine.state, puts, deletes, [])
        mine.written |= {*puts, *deletes}

    @rule(session=sessions, prefix=prefixes)
    def clear_inside(self, session: int, prefix: str) -> None:
        if (mine := self.opened(session)) is None:
            return

        async def clear() -> None:
            mine.staging.clear(prefix)

        run_sync(clear())
        mine.steps.append(("clear", prefix))
        mine.state = self.apply(mine.state, {}, [], [prefix])
        mine.cleared.append(prefix)

    @rule(session=sessions, key=chunks, tag=small_values)
    def partial_inside(self, session: int, key: str, tag: bytes) -> None:
        if (mine := self.opened(session)) is None:
            return
        repository = self.repositories[session]

        async def change() -> None:
            found = (await repository.read_to_write(mine.staging, [key]))[0]
            await repository.stage(mine.staging, {key: (b"" if found is None else found.data) + tag})

        run_sync(change())
        if not mine.knows(key):
            mine.expects.add(key)
        mine.state[key] = mine.state.get(key, b"") + tag
        mine.steps.append(("put", ({key: mine.state[key]}, [])))
        mine.written.add(key)

    @rule(session=sessions, commit=st.booleans())
    def end(self, session: int, commit: bool) -> None:
        if (mine := self.opened(session)) is None:
            return
        self.open[session] = None
        if not commit:
            run_sync(mine.staging.discard())
            return
        before = self.generations[mine.base]
        expected = any(before.get(key, 0) != self.generations[-1].get(key, 0) for key in mine.expects)
        try:
            number = run_sync(
                self.repositories[session].commit(mine.staging, message="m", automatic=False)
            ).number
        except StaleError:
            assert expected
            return
        assert not expected
        if not mine.steps:
            assert number == mine.base
            return
        state = dict(self.newest)
        changed: set[str] = set()
        for kind, step in mine.steps:
            if kind == "clear":
                state = self.apply(state, {}, [], [step])
            else:
                state = self.apply(state, step[0], step[1], [])
                changed |= set(step[0])
        self.landed(number, state, changed)
        self.note_written(session, number, {}, [], mine.cleared)

    # -- checks ---------------------------------------------------------------------------------------------------

    async def contents(self, repository: Repository) -> tuple[Model, dict[str, int], int]:
        """Read all that one version holds, by each of the ways there are."""
        from zarrvec.engine import listing
        from zarrvec.engine.reader import Request

        engine = await repository.engine()
        view = await repository.view()
        rows = [row async for row in listing.list_entries(engine.reader, view, "")]
        keys = [key for key, _ in rows]
        assert len(keys) == len(set(keys)), "a key is listed twice"
        found = await engine.read(view, [Request(key) for key in keys])
        state: Model = {}
        generations = {}
        for (key, entry), value in zip(rows, found, strict=True):
            assert value is not None
            assert value.generation == entry.generation
            state[key], generations[key] = value.data, value.generation
        absent = [f"{array}/c/{index}" for array in ARRAYS for index in range(25)]
        absent = [key for key in [*absent, *DOCUMENTS] if key not in state]
        assert await engine.read(view, [Request(key) for key in absent]) == [None] * len(absent)
        for prefix in ["", "a", "a/b", "ab", "z", "z/c", "nothing"]:
            children = await listing.list_children(engine.reader, view, prefix)
            below = [key[len(prefix) + 1 if prefix else 0 :] for key in keys if is_below(key, prefix)]
            assert children.keys() == {name.partition("/")[0] for name in below}, prefix
            assert {name for name, entry in children.items() if entry is not None} == {
                name for name in below if "/" not in name
            }
            assert await listing.is_empty(engine.reader, view, prefix) is not bool(below)
        return state, generations, view.version.number

    def check(self, repository: Repository, number: int | None) -> None:
        state, generations, seen = run_sync(self.contents(repository))
        if number is not None:
            assert seen == number
        assert state == self.versions[seen]
        assert generations == self.generations[seen]

    @invariant()
    def sessions_see_a_version(self) -> None:
        for session, repository in enumerate(self.repositories):
            # a session with max_staleness 0 sees the newest, another one at least a whole version
            self.check(repository, len(self.versions) - 1 if session % 2 else None)
        for mine, repository in zip(self.open, self.repositories, strict=True):
            if mine is not None:
                assert run_sync(seen_inside(repository, mine)) == mine.state

    @invariant()
    def a_new_process_sees_the_newest(self) -> None:
        self.check(self.fresh(SESSIONS), len(self.versions) - 1)

    @precondition(lambda self: len(self.versions) > 2)
    @rule(data=st.data())
    def past(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.versions) - 1))
        self.check(Repository(self.fresh(SESSIONS).place, at=number), number)

    def teardown(self) -> None:
        place = self.fresh(SESSIONS).place
        for number in range(1, len(self.versions)):
            self.check(Repository(place, at=number), number)
        run_sync(self.end_all())

    async def end_all(self) -> None:
        for mine in self.open:
            if mine is not None:
                await mine.staging.discard()
        for identity in [name for name in engines._ENGINES if self.name in name]:
            del engines._ENGINES[identity]


async def add_tag(repository: Repository, keys: list[str], tag: bytes) -> int:
    """Write a part of values, as the codec pipeline does."""
    while True:
        staging = await repository.begin_reading()
        found = await repository.read_to_write(staging, keys)
        puts = {
            key: (b"" if value is None else value.data) + tag for key, value in zip(keys, found, strict=True)
        }
        await repository.stage(staging, puts)
        try:
            return (await repository.commit(staging)).number
        except StaleError:
            continue


async def seen_inside(repository: Repository, mine: Open) -> Model:
    from zarrvec.engine import listing
    from zarrvec.engine.reader import Request

    engine = await repository.engine()
    view = mine.staging.view
    keys = [key async for key, _ in listing.list_entries(engine.reader, view, "")]
    found = await engine.read(view, [Request(key) for key in keys])
    return {key: value.data for key, value in zip(keys, found, strict=True) if value is not None}


@pytest.mark.once
@pytest.mark.timeout(0)
def test_sessions_on_one_store() -> None:
    examples = int(os.environ.get("ZARRVEC_MODEL_EXAMPLES", "25"))
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
