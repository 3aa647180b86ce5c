"""Does the index work on Icechunk, where sessions are committed by the user and a past snapshot has the index of its time?"""

import pickle

import icechunk
import numpy as np
import pytest
import zarr

from zarrvec.errors import ReadOnlyError, SearchError
from zarrvec.search import extending

WIDTH = 16
ALL = 10**6


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype("f4")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 4000)
    made = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    session = made.writable_session("main")
    group = zarr.create_group(session.store)
    group.create_array("emb", data=rows(400), chunks=(100, WIDTH))
    session.commit("rows")
    return made


def change(repository, function):
    """Open the array in a session, change it, commit; return the id of the snapshot."""
    session = repository.writable_session("main")
    function(zarr.open_array(session.store, path="emb", mode="r+"))
    return session.commit("changed")


def newest(repository, **at):
    session = repository.readonly_session(**(at or {"branch": "main"}))
    return zarr.open_array(session.store, path="emb", mode="r")


def check(array, *, deleted=()):
    """All lists hold all rows; what is found by fewer is what numpy finds."""
    data, alive = array[...], np.setdiff1d(np.arange(array.shape[0]), deleted)
    assert array.vec.search(data[alive], 1, nprobe=ALL, rerank=True).ids[:, 0].tolist() == alive.tolist()
    queries = rows(50, 9)
    truth = alive[np.argsort(((queries[:, None] - data[alive]) ** 2).sum(axis=2), axis=1)[:, :10]]
    hits = array.vec.search(queries, 10, recall=0.95)
    assert hits.stats.nprobe is not None
    shared = [
        len(set(one) & set(other)) for one, other in zip(truth.tolist(), hits.ids.tolist(), strict=True)
    ]
    assert np.mean(shared) / 10 >= 0.9
    assert (array.vec.search(queries, 10, exact=True).ids == truth).all()


def test_every_change_and_every_snapshot(repository):
    built = change(repository, lambda array: array.vec.build_index(metric="l2"))
    check(newest(repository))
    appended = change(repository, lambda array: array.vec.append(rows(150, 1)))
    assert newest(repository).vec.info()["segments"] == 2
    check(newest(repository))
    change(repository, lambda array: array.vec.delete([3, 420]))
    check(newest(repository), deleted=[3, 420])
    change(repository, lambda array: array.append(rows(20, 2)))
    assert newest(repository).vec.info()["rows_out_of_lists"] == 20
    check(newest(repository), deleted=[3, 420])
    change(repository, lambda array: array.vec.optimize())
    assert newest(repository).vec.info()["rows_out_of_lists"] == 0
    check(newest(repository), deleted=[3, 420])
    check(newest(repository, snapshot_id=built))
    check(pickle.loads(pickle.dumps(newest(repository, snapshot_id=appended))))
    change(repository, lambda array: array.vec.drop_index())
    with pytest.raises(SearchError, match="no vector index"):
        newest(repository).vec.info()
    with pytest.raises(ReadOnlyError, match="read-only"):
        newest(repository).vec.build_index()


def test_of_two_sessions_that_change_the_index_one_is_refused(repository):
    change(repository, lambda array: array.vec.build_index(metric="l2"))
    sessions = [repository.writable_session("main") for _ in range(2)]
    for seed, session in enumerate(sessions):
        zarr.open_array(session.store, path="emb", mode="r+").vec.append(rows(150, 1 + seed))
    sessions[0].commit("first")
    with pytest.raises(icechunk.ConflictError):
        sessions[1].commit("second")
    check(newest(repository))


def test_a_session_that_is_discarded_leaves_the_index_as_it_was(repository):
    change(repository, lambda array: array.vec.build_index(metric="l2"))
    session = repository.writable_session("main")
    array = zarr.open_array(session.store, path="emb", mode="r+")
    array.vec.append(rows(150, 1))
    check(array)
    session.discard_changes()
    check(newest(repository))
