"""How far may what is read be from what was written?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBound:
    """How far what is read may be from what was written: ``absolute + relative * |x| + of_range * (max - min)``.

    Maximum and minimum are those of the vector that x is in, along the last axis of its chunk.

    Examples
    --------
    >>> bound = ErrorBound(of_range=1 / 510)
    >>> bound.of(np.array([[0, 51], [2, 2]], "f4")).tolist()
    [[0.1, 0.1], [0.0, 0.0]]
    """

    absolute: float = 0.0
    """In the unit of the values."""
    relative: float = 0.0
    """Times the magnitude of the value."""
    of_range: float = 0.0
    """Times the range of the vector."""
    largest: float = float("inf")
    """The largest magnitude for which this holds."""

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the bound of each value.

        Parameters
        ----------
        values
            (..., d) finite floats.

        Returns
        -------
        (..., d) float64, infinite where a value is above `largest`.
        """
        wide = np.asarray(values, np.float64)
        spread = wide.max(axis=-1, keepdims=True) - wide.min(axis=-1, keepdims=True)
        bound = self.absolute + self.relative * np.abs(wide) + self.of_range * spread
        return np.where(np.abs(wide) <= self.largest, bound, np.inf)
