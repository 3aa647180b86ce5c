"""By how much is the nearest centroid not the first to be probed?

Pure. A list is probed by ``-2 q . c`` and a bias of its own, the least first. For the 10 nearest of GloVe at recall 0.95 a
query that went by the centroids alone would read a third more lists under ``cosine``, and nearly twice as many under ``ip``.
The weights were measured: ``specs/vector-index.md``, section "Choices".
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.search.metrics import Metric

COSINE_SHRINKAGE: Final = 0.6
"""Weight of the squared length of a centroid under ``cosine``, where the nearest centroid would be that of weight 1."""
IP_SPREAD: Final = 0.2
"""Weight of the radius of a list under ``ip``."""

Float32: TypeAlias = npt.NDArray[np.float32]


def list_bias(squares: Float32, radii: Float32, metric: Metric) -> Float32:
    """Return what is added to ``-2 q . c``; under ``ip`` times the length of q.

    The best row of a list lies beyond its centroid, as seen from the query, the more so the farther its rows are spread.
    Under ``cosine`` that spread grows as the length of the centroid falls; under ``ip`` the radius stands for it.

    Parameters
    ----------
    squares
        (nlist,) float32: squared lengths of the centroids.
    radii
        (nlist,) float32: how far rows are from the centroid.
    metric
        Of the index.

    Returns
    -------
    ndarray
        (nlist,) float32.

    Examples
    --------
    >>> squares, radii = np.array([1, 0.5], "f4"), np.array([0, 2], "f4")
    >>> {metric: list_bias(squares, radii, metric).round(2).tolist() for metric in ("l2", "ip")}
    {'l2': [1.0, 0.5], 'ip': [-0.0, -0.800000011920929]}
    """
    if metric == "ip":
        return np.float32(-2 * IP_SPREAD) * radii
    return squares * np.float32(COSINE_SHRINKAGE if metric == "cosine" else 1)
