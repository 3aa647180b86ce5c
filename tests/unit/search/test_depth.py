"""Are the right lists probed, and as many as the recall takes?"""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from zarrvec.search import kernels
from zarrvec.search.depth import Compass, candidates_for, depth_for, waves
from zarrvec.search.head import Curve, Head
from zarrvec.search.kernels import ScanInput, scan
from zarrvec.search.list_table import ListTable
from zarrvec.search.loading import Loader
from zarrvec.search.metrics import METRICS
from zarrvec.search.records import LIST_HEAD, Entries, Layout
from zarrvec.search.space import distances_of, indexed_queries

pytestmark = pytest.mark.once

VECTORS = Path(__file__).parents[3] / "specs" / "vectors"
HEAD = Head.decode(json.loads((VECTORS / "index.json").read_text())["l2"]["head"], name="x")


def head_of(*recall, loss):
    curves = (Curve(k=10, recall=recall, error=(0.0,) * 4, loss=loss),)
    return msgspec.structs.replace(HEAD, calibration=msgspec.structs.replace(HEAD.calibration, curves=curves))


EASY = head_of(0.9, 0.95, 0.99, 1.0, loss={"4": 0.5, "8": 0.0})
LOSSY = head_of(0.9, 0.95, 0.99, 1.0, loss={"4": 0.5, "8": 0.1})


@pytest.mark.parametrize(
    ("head", "asked", "expected"),
    [
        (EASY, {}, (2, False)),
        (EASY, {"rerank": True}, (2, True)),
        (EASY, {"bits": 4}, (2, True)),  # codes of 4 bits can't have it
        (EASY, {"bits": 4, "rerank": False}, (4, False)),  # then all lists
        (EASY, {"nprobe": 3}, (3, False)),
        (EASY, {"nprobe": 99, "rerank": True}, (4, True)),
        (LOSSY, {}, (2, True)),
        (LOSSY, {"rerank": False}, (4, False)),
    ],
)
def test_depth(head, asked, expected):
    options = {"bits": 8, "nprobe": None, "rerank": None, "reread_bytes": 0, **asked}
    assert depth_for(head, 0.95, 10, **options) == expected


def test_more_hits_than_were_measured_take_more_lists():
    rows = HEAD.rows
    asked = {"bits": 8, "nprobe": None, "rerank": None, "reread_bytes": 0}
    depths = [depth_for(EASY, 0.95, k, **asked).nprobe for k in (10, rows // 8, rows // 4, rows)]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (2, HEAD.nlist)


def test_ranking_again_must_be_worth_its_round():
    near = head_of(0.9, 0.95, 0.97, 1.0, loss={"4": 0.5, "8": 0.01})
    asked = {"bits": 8, "nprobe": None, "rerank": None}
    assert depth_for(near, 0.95, 10, **asked, reread_bytes=0) == (3, False)
    far = head_of(0.95, 0.96, 0.97, 1.0, loss={"4": 0.5, "8": 0.02})
    assert depth_for(far, 0.95, 10, **asked, reread_bytes=0) == (1, True)
    assert depth_for(far, 0.95, 10, **asked, reread_bytes=1e9) == (3, False)


def some_table(random, nlist, width):
    heads = np.zeros(nlist, LIST_HEAD)
    heads["radius"], heads["scale"] = random.random(nlist), random.uniform(0.01, 0.03, nlist)
    return ListTable(heads, random.integers(-127, 128, (nlist, width), dtype=np.int8))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nprobe", [1, 5, 40, 99])
@pytest.mark.usefixtures("compiled")
def test_probes_are_the_lists_of_least_key(metric, nprobe):
    random = np.random.default_rng(0)
    table, queries = some_table(random, 40, 6), random.normal(size=(9, 6)).astype("f4")
    centroids, radii = table.vectors(), table.heads["radius"]
    compass = Compass.of_table(table, metric)
    probes = compass.probe(queries, nprobe)
    squares = (centroids.astype("f8") ** 2).sum(axis=1)
    lengths = np.linalg.norm(queries.astype("f8"), axis=1)[:, None]
    bias = {"l2": squares[None], "cosine": 0.6 * squares[None], "ip": -0.4 * lengths * radii}[metric]
    keys = bias - 2 * queries.astype("f8") @ centroids.T
    expected = np.argsort(keys, axis=1)[:, :nprobe]
    np.testing.assert_array_equal(probes.lists, expected)
    np.testing.assert_allclose(
        probes.products, np.take_along_axis(queries @ centroids.T, expected, axis=1), rtol=1e-5, atol=1e-6
    )
    away = (squares - 2 * queries.astype("f8") @ centroids.T + lengths**2).min(axis=1)
    np.testing.assert_allclose(probes.nearest, away, rtol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_of_lists_with_one_key_the_first():
    table = some_table(np.random.default_rng(0), 9, 3)
    table.centroids[:], table.heads["scale"] = 100, 0.01
    probes = Compass.of_table(table, "l2").probe(np.ones((2, 3), "f4"), 9)
    assert probes.lists.tolist() == [list(range(9))] * 2


def test_one_list():
    probes = Compass.of(np.zeros((1, 3), "f4"), np.zeros(1, "f4"), "l2").probe(np.ones((2, 3), "f4"), 7)
    assert probes.lists.tolist() == [[0], [0]]


def test_waves_hold_what_fits():
    lists, sizes = np.arange(50), np.random.default_rng(0).integers(1, 30, size=50)
    runs = list(waves(lists, sizes, 40))
    assert np.concatenate(runs).tolist() == lists.tolist()
    assert all(sizes[run].sum() <= 40 for run in runs)
    assert [run.tolist() for run in waves(np.array([3, 4]), np.array([99, 99]), 1)] == [[3], [4]]
    assert list(waves(np.empty(0, int), np.empty(0, int), 9)) == []


def test_fewer_bits_take_more_candidates():
    assert all(candidates_for(k, 4) > candidates_for(k, 8) > k for k in (1, 10, 1000))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [8, 4])
def test_lists_found_at_once_are_those_chosen_and_scanned(metric, bits, monkeypatch):
    monkeypatch.setattr(kernels, "_loader", Loader())
    random, segments, nlist = np.random.default_rng(0), 3, 40
    layout = Layout(width=75, id_bytes=4, has_norms=metric == "l2")
    counts = random.integers(0, 30, (segments, nlist))
    packed = [[_some_list(random, layout, count) for count in part] for part in counts]
    addresses = np.array([[data.ctypes.data if data.size else 0 for data in part] for part in packed], "u8")
    lists = ScanInput(layout=layout, addresses=addresses, counts=counts)
    table, given = some_table(random, nlist, 75), random.normal(size=(3, 75))
    compass = Compass.of_table(table, metric)
    origin = random.normal(size=75).astype("f4") if metric == "l2" else None

    def find_at_once(given=given, kept=5, far=0.0):
        space = kernels.Space(metric, origin, 7, far)
        return kernels.find(lists, compass.coarse, given, space, kept=kept, bits=bits)

    assert find_at_once() is None  # nothing is compiled yet
    if not kernels.compile_now():
        pytest.skip("numba is not installed")
    queries = indexed_queries(given, metric, origin)
    probes = compass.probe(queries, 7)
    expected = scan(lists, queries, probes.lists, probes.products, kept=5, bits=bits)
    found = find_at_once(far=float(np.sort(probes.nearest)[:2].mean()))  # of which two are farther
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(
        found.distances, distances_of(expected.scores, queries, metric), rtol=1e-6, atol=1e-6
    )
    met = np.count_nonzero(counts[:, np.unique(probes.lists)])
    assert found[2:] == (expected.scanned, met, 2)
    assert find_at_once(kept=counts.sum()) is None  # so many are not in the lists
    if metric == "cosine":
        assert find_at_once(given * [[1], [0], [1]]) is None
        assert find_at_once(given * 1e200) is None
    number = probes.lists[2, 6]
    counts[1, number], addresses[1, number] = 3, 0
    assert find_at_once() is None
    assert [len(kernel.signatures) for kernel, _ in kernels._loader.module.examples()] == [1, 1, 1]


def _some_list(random, layout, count):
    codes = random.integers(0, 256, (count, layout.width), dtype=np.uint8)
    norms = random.random(count).astype("f4") if layout.has_norms else None
    scales = random.random(count).astype("f4") / 100
    return layout.pack(Entries(random.integers(0, 999, count), scales, scales, norms, codes))
