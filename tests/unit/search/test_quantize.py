"""Do codes say what vectors are, within the error that is stored with them?"""

import numpy as np
import pytest

from zarrvec.search.quantize import dequantize, quantize, quantize_centroids


def decoded_error(vectors, centroids, coded):
    exact = centroids.astype("f8") + coded.scales.astype("f8")[:, None] * (coded.codes.astype("f8") - 128)
    return np.sqrt(((vectors.astype("f8") - exact) ** 2).sum(axis=1))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e15])
@pytest.mark.parametrize("width", [1, 3, 384])
def test_errors_bound_the_truth(width, size):
    random = np.random.default_rng(width)
    vectors, centroids = (size * random.normal(size=(2, 200, width))).astype("f4")
    coded = quantize(vectors, centroids)
    rounding = 4e-7 * np.abs(vectors).max() * width**0.5
    hidden = 2.0**-63 * width**0.5  # squares below float32 vanish
    assert (decoded_error(vectors, centroids, coded) <= coded.errors + rounding + hidden).all()
    assert (coded.errors <= 1.01 * 0.5 * coded.scales * width**0.5 + 1e-6 * size * width**0.5).all()


def test_norms_are_those_of_decoded_vectors():
    random = np.random.default_rng(0)
    vectors, centroids = random.normal(size=(2, 100, 20)).astype("f4")
    coded = quantize(vectors, centroids)
    decoded = dequantize(coded.codes, coded.scales, centroids)
    np.testing.assert_allclose(coded.norms, (decoded**2).sum(axis=1), rtol=1e-6)


def test_what_equals_its_centroid_has_no_error():
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype("f4")
    coded = quantize(vectors, vectors)
    assert (coded.codes == 128).all()
    assert not coded.scales.any()
    assert not coded.errors.any()


@pytest.mark.parametrize("size", [1e-42, 1e-38, 2e-36, 1, 1e15])
def test_code_zero_is_never_used(size):
    vectors = (size * np.random.default_rng(0).normal(size=(5_000, 6))).astype("f4")
    codes = quantize(vectors, np.zeros_like(vectors)).codes
    assert codes.min() == 1
    assert codes.max() == 255


def test_subnormal_residuals():
    vectors = np.full((2, 3), 1e-44, "f4")
    coded = quantize(vectors, np.zeros_like(vectors))
    assert np.isfinite(coded.errors).all()
    assert (decoded_error(vectors, np.zeros_like(vectors), coded) <= 2e-44).all()


def test_centroids():
    centroids = np.random.default_rng(0).normal(size=(50, 8)).astype("f4")
    codes, scales = quantize_centroids(centroids)
    assert codes.min() >= -127
    np.testing.assert_allclose(codes * scales[:, None], centroids, atol=float(scales.max()) / 2 * 1.001)
    codes, scales = quantize_centroids(np.zeros((2, 3), "f4"))
    assert not codes.any()
    assert not scales.any()


def test_nothing():
    coded = quantize(np.empty((0, 5), "f4"), np.empty((0, 5), "f4"))
    assert coded.codes.shape == (0, 5)
    assert coded.errors.shape == (0,)
