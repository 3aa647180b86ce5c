import sys
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from zarrvec.errors import OptionError
from zarrvec.search import clustering
from zarrvec.search.clustering import (
    Assigner,
    gain_threshold,
    second_lists,
    train_centroids,
)
from zarrvec.search.similarity import similarity_order

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _one_thread():  # several processes of pytest share the cores, and waiting threads of faiss would take them
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def clustered(rows: int, width: int, clusters: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, width)) * 4
    return (centres[rng.integers(clusters, size=rows)] + rng.standard_normal((rows, width))).astype("f4")


def squared_distances(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    distances: np.ndarray = ((rows[:, None].astype("f8") - centroids[None].astype("f8")) ** 2).sum(axis=2)
    return distances


def mean_loss(rows: np.ndarray, centroids: np.ndarray) -> float:
    return float(Assigner(centroids).nearest(rows, 1)[1].mean())


# ── nearest ──


@pytest.mark.parametrize(("rows", "width", "nlist", "k"), [(1, 1, 1, 1), (7, 3, 5, 5), (300, 24, 90, 16)])
def test_the_nearest_are_those_of_numpy(rows, width, nlist, k):
    vectors, centroids = clustered(rows, width, 9), clustered(nlist, width, 9, seed=1)
    lists, distances = Assigner(centroids).nearest(vectors, k)
    expected = squared_distances(vectors, centroids)
    assert (str(lists.dtype), str(distances.dtype), lists.shape) == ("int32", "float32", (rows, k))
    np.testing.assert_array_equal(lists, np.argsort(expected, axis=1)[:, :k])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :k], rtol=1e-4)


def test_vectors_far_from_zero_and_near_each_other_keep_their_order():
    vectors, centroids = clustered(200, 16, 9) + 5_000, clustered(50, 16, 9, seed=1) + 5_000
    lists, distances = Assigner(centroids).nearest(vectors, 3)
    expected = squared_distances(vectors, centroids)
    np.testing.assert_array_equal(lists, np.argsort(expected, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :3], rtol=1e-3)


def test_rows_of_several_blocks_are_those_of_one(monkeypatch):
    vectors, centroids = clustered(100, 8, 5), clustered(40, 8, 5, seed=1)
    whole = Assigner(centroids).nearest(vectors, 4)
    monkeypatch.setattr(clustering, "_BLOCK_ROWS", 33)
    parts = Assigner(centroids).nearest(vectors, 4)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-4, atol=1e-5)


def test_of_many_centroids_most_of_the_nearest_are_found_in_order():
    vectors, centroids = clustered(2_000, 16, 60), clustered(900, 16, 60, seed=0)[::-1].copy()
    lists, distances = Assigner(centroids, flat_lists=100).nearest(vectors, 10)
    exact = Assigner(centroids).nearest(vectors, 10)
    assert (lists[:, 0] == exact[0][:, 0]).mean() > 0.95
    assert (np.diff(distances, axis=1) >= 0).all()
    own = squared_distances(vectors, centroids)[np.arange(2_000)[:, None], lists]
    np.testing.assert_allclose(distances, own, rtol=1e-3, atol=1e-3)
    assert all(len(set(row)) == 10 for row in lists.tolist())


def test_as_many_as_there_are_are_found_among_many_centroids():
    centroids = clustered(60, 4, 5)
    lists, _ = Assigner(centroids, flat_lists=10).nearest(centroids, 60)
    assert all(sorted(row) == list(range(60)) for row in lists.tolist())


@pytest.mark.parametrize("flat_lists", [10_000, 50])
def test_threads_get_what_one_thread_gets(flat_lists):
    vectors = clustered(1_600, 12, 20)
    assigner = Assigner(clustered(200, 12, 20, seed=1), flat_lists=flat_lists)
    expected = assigner.nearest(vectors, 5)[0]
    with ThreadPoolExecutor(4) as pool:
        parts = list(
            pool.map(lambda start: assigner.nearest(vectors[start : start + 100], 5)[0], range(0, 1_600, 100))
        )
    assert (np.concatenate(parts) == expected).mean() > 0.999  # a product of other shape may round otherwise


def test_no_rows_have_no_lists():
    assert Assigner(np.eye(3, dtype="f4")).nearest(np.empty((0, 3), "f4"), 2)[0].shape == (0, 2)


# ── training ──


@pytest.mark.parametrize("nlist", [30, 1_500])
def test_centroids_are_better_than_rows_drawn_and_the_same_for_a_seed(nlist):
    sample = clustered(12_000, 8, 100)
    centroids = train_centroids(sample, nlist, seed=3)
    assert (centroids.shape, str(centroids.dtype)) == ((nlist, 8), "float32")
    drawn = sample[np.random.default_rng(0).choice(len(sample), nlist, replace=False)]
    assert mean_loss(sample, centroids) < 0.75 * mean_loss(sample, drawn)
    np.testing.assert_array_equal(centroids, train_centroids(sample, nlist, seed=3))
    assert not np.array_equal(centroids, train_centroids(sample, nlist, seed=4))


def test_training_in_groups_is_nearly_as_good_as_at_once(monkeypatch):
    sample = clustered(12_000, 8, 100)
    grouped = mean_loss(sample, train_centroids(sample, 1_500))
    monkeypatch.setattr(clustering, "FLAT_TRAINING_LISTS", 10_000)
    assert grouped < 1.05 * mean_loss(sample, train_centroids(sample, 1_500))


def test_training_among_many_lists_compares_groups(monkeypatch):
    sample = clustered(12_000, 8, 100)
    exact = mean_loss(sample, train_centroids(sample, 1_500))
    monkeypatch.setattr(clustering, "_FLAT_REFINED_LISTS", 100)
    assert mean_loss(sample, train_centroids(sample, 1_500)) < 1.03 * exact


@pytest.mark.parametrize("nlist", [1, 2, 7, 1_500])
@pytest.mark.parametrize("kind", ["few", "constant", "duplicates", "zero"])
def test_samples_with_little_in_them_train(kind, nlist):
    rng = np.random.default_rng(0)
    sample = {
        "few": rng.random((5, 3)),
        "constant": np.full((3_000, 3), 7.5),
        "duplicates": np.repeat(rng.random((20, 3)), 150, axis=0),
        "zero": np.zeros((3_000, 3)),
    }[kind].astype("f4")
    centroids = train_centroids(sample, nlist)
    assert centroids.shape == (min(nlist, len(sample)), 3)
    assert np.isfinite(centroids).all()
    if nlist >= 1_500:
        assert mean_loss(sample, centroids) <= 1e-5 * (1 + float((sample**2).sum(axis=1).mean()))
    lists, distances = Assigner(centroids).nearest(sample, min(16, len(centroids)))
    gains = second_lists(sample, centroids, lists, distances).gains
    assert not np.isnan(gains).any()
    assert sorted(similarity_order(centroids).tolist()) == list(range(len(centroids)))


def test_one_list_is_nearly_the_mean():
    sample = clustered(2_000, 6, 3)
    mean = sample.mean(axis=0, keepdims=True)
    assert mean_loss(sample, train_centroids(sample, 1)) < 1.01 * mean_loss(sample, mean)


@pytest.mark.parametrize("nlist", [4, 1_200])
def test_progress_grows_to_one(nlist):
    seen: list[float] = []
    train_centroids(clustered(3_000, 4, 10), nlist, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert all(0 <= part <= 1 for part in seen)


def test_faiss_says_nothing(capfd):
    train_centroids(clustered(3_000, 4, 10), 1_200)
    train_centroids(clustered(60, 4, 10), 50)
    assert capfd.readouterr() == ("", "")


def test_what_can_not_be_trained_is_said():
    with pytest.raises(OptionError, match="nlist=0: expected at least 1"):
        train_centroids(np.ones((4, 2), "f4"), 0)
    with pytest.raises(OptionError, match="no rows to train"):
        train_centroids(np.ones((0, 2), "f4"), 3)


def test_a_missing_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(OptionError, match=r"pip install 'zarrvec\[search\]'"):
        train_centroids(np.ones((4, 2), "f4"), 2)


# ── the second list ──


@pytest.mark.parametrize("strength", [0.0, 1.5, 20.0])
def test_second_lists_are_those_of_a_plain_loop(strength, monkeypatch):
    monkeypatch.setattr(clustering, "_BLOCK_ROWS", 64)
    rows, centroids = clustered(150, 10, 12), clustered(40, 10, 12, seed=1)
    lists, distances = Assigner(centroids).nearest(rows, 8)
    chosen, gains = second_lists(rows, centroids, lists, distances, strength=strength)
    for row, near, second, gain in zip(rows.astype("f8"), lists, chosen, gains, strict=True):
        first = row - centroids[near[0]]
        direction = first / np.linalg.norm(first)
        losses = []
        for other in near[1:]:
            residual = row - centroids[other]
            losses.append(residual @ residual + strength * (residual @ direction) ** 2)
        best = int(np.argmin(losses))
        assert losses[near[1:].tolist().index(second)] == pytest.approx(losses[best], rel=1e-3)
        assert gain == pytest.approx(-losses[best] / (first @ first), rel=1e-3)


def test_a_second_residual_that_points_elsewhere_is_preferred():
    centroids = np.array([[0, 0], [-1.5, 0], [1, 2]], "f4")
    row = np.array([[1, 0]], "f4")
    lists, distances = Assigner(centroids).nearest(row, 3)
    assert second_lists(row, centroids, lists, distances).lists.tolist() == [2]
    beyond = np.array([[0, 0], [1, 1.9], [2.8, 0]], "f4")
    lists, distances = Assigner(beyond).nearest(row, 3)
    assert second_lists(row, beyond, lists, distances, strength=0).lists.tolist() == [2]
    assert second_lists(row, beyond, lists, distances).lists.tolist() == [1]


def test_a_row_at_its_centroid_or_with_one_list_gains_nothing():
    centroids = np.array([[0, 0], [3, 0]], "f4")
    rows = np.array([[0, 0], [1, 0]], "f4")
    lists, distances = Assigner(centroids).nearest(rows, 2)
    at_centroid, between = second_lists(rows, centroids, lists, distances).gains.tolist()
    assert at_centroid == -np.inf < between
    only = second_lists(rows, centroids, lists[:, :1], distances[:, :1])
    assert only.lists.tolist() == lists[:, 0].tolist()
    assert (only.gains == -np.inf).all()


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_the_threshold_lets_the_share_through(share):
    gains = np.random.default_rng(0).standard_normal(1_000).astype("f4")
    assert (gains >= gain_threshold(gains, share)).mean() == share


def test_rows_that_gain_nothing_never_pass():
    gains = np.array([-np.inf, -np.inf, -np.inf, -2.0], "f4")
    assert (gains >= gain_threshold(gains, 0.5)).tolist() == [False, False, False, True]


def test_rows_of_unknown_gain_never_pass():
    gains = np.array([np.nan, np.nan, np.nan, -2.0], "f4")
    assert (gains >= gain_threshold(gains, 0.5)).tolist() == [False, False, False, True]


# ── order ──


def steps(centroids: np.ndarray, order: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(centroids[order], axis=0), axis=1).sum())


@pytest.mark.parametrize(("width", "clusters"), [(2, 200), (32, 20)])
def test_the_order_is_a_permutation_and_far_shorter_than_at_random(width, clusters):
    centroids = clustered(600, width, clusters)
    order = similarity_order(centroids)
    assert sorted(order.tolist()) == list(range(600))
    at_random = steps(centroids, np.random.default_rng(0).permutation(600))
    assert steps(centroids, order) < at_random / (8 if width == 2 else 1.5)
    np.testing.assert_array_equal(order, similarity_order(centroids))


def test_the_nearest_of_a_query_are_in_fewer_runs_than_at_random():
    centroids = clustered(1_000, 16, 40)
    order = similarity_order(centroids)
    position = np.argsort(order)
    near = Assigner(centroids).nearest(clustered(200, 16, 40), 20)[0]

    def runs(lists: np.ndarray) -> float:
        return float((np.diff(np.sort(lists, axis=1), axis=1) > 1).sum(axis=1).mean() + 1)

    assert runs(position[near]) < runs(near) / 2


def test_points_of_a_line_are_ordered_along_it():
    centroids = np.random.default_rng(0).permutation(50).astype("f4")[:, None]
    ordered = centroids[similarity_order(centroids), 0]
    assert (np.abs(np.diff(ordered)) == 1).all()


@pytest.mark.parametrize("nlist", [1, 2, 3])
def test_few_lists_have_an_order(nlist):
    assert sorted(similarity_order(clustered(nlist, 4, 2)).tolist()) == list(range(nlist))
