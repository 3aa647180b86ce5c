"""Where ``array.vec`` comes from.

The class stands in a higher layer and brings numpy kernels with it, so it is named here, not imported.
"""

from typing import Final

from zarrvec.faces.accessors import register_lazy_array_accessor

VEC_TARGET: Final = "zarrvec.search.accessor:VectorAccessor"


def register_vec() -> None:
    """Register ``array.vec``; doing it again does nothing.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> register_vec()
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=np.eye(3, dtype="f4"), chunks=(2, 3))
    >>> array.vec.search([0, 2, 1], k=2).ids.tolist()
    [1, 2]
    """
    register_lazy_array_accessor("vec", VEC_TARGET)
