"""SALUS's case at reduced size: episodes recorded one at a time, with zarr's own chunks and with planned ones.

At full size it is `benchmarks.salus`. A chunk that spans all n episodes is written with each of them, so that n episodes cost (n + 1) / 2
times the bytes that the array has at the end: 10.5 times for 20. Of the plan's bytes it is less here, since zarr's chunks have zstd and
the plan's a faster codec.
"""

import json
import uuid

import numpy as np
import zarr

import zarrvec
from zarrvec.demo_data import load_episode
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.counting import count_requests
from zarrvec.faces.targets import repository_of

EPISODES = 20
ALL_EPISODES = 500
STEPS = 50


def episodes():
    """Yield real frames, each episode in colours of its own, so that none repeats another."""
    frames = np.ascontiguousarray(np.moveaxis(load_episode()["rgb"][:STEPS, ::8, ::8], -1, 1))
    for number in range(EPISODES):
        yield frames ^ np.uint8(number * 11)


def record(create):
    """Return the requests, and the bytes that the last write wrote."""
    url = f"zarrvec::memory://salus-{uuid.uuid4().hex}"
    root = zarr.open_group(url, mode="w", storage_options={"zarrvec": {"max_staleness": 600}})
    array = create(root)
    repository, _ = repository_of(array)
    requests = run_sync(count_requests(repository.place))
    last = 0
    for number, episode in enumerate(episodes()):
        before = requests.copy()
        array[number] = episode
        last = requests.since(before).written_bytes
    assert np.array_equal(array[7], list(episodes())[7])
    return requests, last


def test_recording_episodes():
    first = next(iter(episodes()))
    shape = (ALL_EPISODES, *first.shape)
    reads = ["one frame", "window of 10", "by episode"]
    plan = zarrvec.plan(shape, "u1", reads=reads, writes=["by episode"], sample=first[None])
    assert plan.chunks[0] == 1
    planned, _ = record(lambda root: plan.create(root, "images"))
    by_default, last = record(lambda root: root.create_array("images", shape=shape, dtype="u1"))
    assert by_default.written_bytes > 4 * planned.written_bytes
    assert 10 < by_default.written_bytes / last < 11
    assert planned.read_bytes < 100_000  # of the last look: nothing is read to be rewritten
    predicted = plan.figures.accesses[-1]
    assert planned.written_bytes / EPISODES / predicted.put_bytes < 1.5
    assert planned.put <= EPISODES * predicted.puts


def test_a_whole_episode_with_its_metadata():
    """Images, signals, actions, labels and JSON of an episode land in one commit, and nothing is written twice."""
    url = f"zarrvec::memory://salus-{uuid.uuid4().hex}"
    root = zarr.open_group(url, mode="w", storage_options={"zarrvec": {"max_staleness": 600}})
    shapes = {
        "images": (STEPS, 3, 28, 28),
        "signals": (STEPS, 12),
        "actions": (STEPS, 4),
        "horizon_labels": (STEPS, 3),
    }
    dtypes = {"images": "u1", "signals": "f4", "actions": "f4", "horizon_labels": "i1"}
    arrays = {}
    for name, inner in shapes.items():
        plan = zarrvec.plan(
            (ALL_EPISODES, *inner), dtypes[name], reads=["one frame", "by episode"], writes=["by episode"]
        )
        assert plan.chunks[0] == 1
        arrays[name] = plan.create(root, name)
    told = root.create_array("metadata", shape=(ALL_EPISODES,), chunks=(1,), dtype=str)
    repository, _ = repository_of(root)
    requests = run_sync(count_requests(repository.place))
    draw = np.random.default_rng(0)
    raw, values = 0, dict[str, np.ndarray]()
    for number in range(EPISODES):
        values = {name: draw.integers(0, 100, inner).astype(dtypes[name]) for name, inner in shapes.items()}
        raw += sum(value.nbytes for value in values.values())
        with zarrvec.transaction(root, message=f"episode {number}"):
            for name, value in values.items():
                arrays[name][number] = value
            told[number] = json.dumps({"episode": number, "success": True, "notes": "x" * 100})
    assert requests.put <= 2 * EPISODES + 2
    assert requests.written_bytes < 1.1 * raw
    assert json.loads(str(told[7]))["episode"] == 7
    assert np.array_equal(arrays["horizon_labels"][EPISODES - 1], values["horizon_labels"])
    assert zarrvec.history(root)[0].message == f"episode {EPISODES - 1}"
