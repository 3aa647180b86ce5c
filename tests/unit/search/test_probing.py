import numpy as np

from zarrvec.search.metrics import Metric
from zarrvec.search.probing import list_bias

RNG = np.random.default_rng(0)
CENTROIDS = (RNG.standard_normal((40, 12)) * RNG.random((40, 1))).astype("f4")
SQUARES = (CENTROIDS**2).sum(axis=1)
RADII = RNG.random(40).astype("f4")
QUERIES = RNG.standard_normal((7, 12)).astype("f4")


def first_lists(metric: Metric, query: np.ndarray, squares: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    keys = -2 * centroids @ query + list_bias(squares, np.zeros(len(centroids), "f4"), metric)
    return np.argsort(keys)


def test_under_l2_lists_come_by_distance():
    for query in QUERIES:
        distances = ((query - CENTROIDS) ** 2).sum(axis=1)
        np.testing.assert_array_equal(
            first_lists("l2", query, SQUARES, CENTROIDS)[:10], np.argsort(distances)[:10]
        )


def test_under_cosine_of_two_centroids_as_far_from_the_query_the_longer_comes_first():
    query = np.array([1, 0], "f4")
    centroids = np.array([[0.5, 0], [1, 0.5]], "f4")
    assert first_lists("cosine", query, (centroids**2).sum(axis=1), centroids).tolist() == [1, 0]


def test_under_cosine_of_two_centroids_of_equal_product_the_shorter_comes_first():
    query = np.array([1, 0], "f4")
    centroids = np.array([[0.5, 0.6], [0.5, 0.1]], "f4")
    assert first_lists("cosine", query, (centroids**2).sum(axis=1), centroids).tolist() == [1, 0]


def test_under_ip_only_the_radius_counts_and_wider_lists_come_first():
    assert (np.argsort(list_bias(SQUARES, RADII, "ip")) == np.argsort(-RADII)).all()
    np.testing.assert_array_equal(list_bias(0 * SQUARES, RADII, "ip"), list_bias(SQUARES, RADII, "ip"))
