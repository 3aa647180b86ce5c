"""In which order do lists lie, so that near ones are neighbours?

Pure. Source: ``specs/vector-index.md``, section "Choices".
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.search.clustering import Assigner

_EDGES: Final = 12
"""Near centroids of each between which edges are drawn at a time."""


def similarity_order(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Return a permutation that makes near centroids neighbours.

    The shortest edges between near centroids are joined into paths, then the nearest ends of paths, until one path is left.

    Parameters
    ----------
    centroids
        (nlist, d) float32.

    Examples
    --------
    >>> similarity_order(np.array([[0], [10], [1], [11]], "f4")).tolist()
    [0, 2, 1, 3]
    """
    paths = _Paths(len(centroids))
    ends = np.arange(len(centroids))
    while paths.count > 1:
        near = min(_EDGES, len(ends))
        lists, distances = Assigner(centroids[ends]).nearest(centroids[ends], near)
        shortest_first = np.argsort(distances, axis=None, kind="stable")
        for one, other in zip(
            ends[shortest_first // near].tolist(), ends[lists.ravel()[shortest_first]].tolist(), strict=True
        ):
            paths.join(one, other)
        ends = paths.ends()
    return paths.walk()


class _Paths:
    """Nodes, each of them on a path of its own at first."""

    def __init__(self, nodes: int) -> None:
        self.count = nodes
        self._next: list[list[int]] = [[] for _ in range(nodes)]
        self._parent = list(range(nodes))

    def _path(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    def join(self, one: int, other: int) -> None:
        """Make one path of two, if both nodes are ends and not of the same path."""
        if len(self._next[one]) == 2 or len(self._next[other]) == 2:
            return
        path, onto = self._path(one), self._path(other)
        if path == onto:
            return
        self._parent[path] = onto
        self._next[one].append(other)
        self._next[other].append(one)
        self.count -= 1

    def ends(self) -> npt.NDArray[np.intp]:
        return np.array([node for node, others in enumerate(self._next) if len(others) < 2], dtype=np.intp)

    def walk(self) -> npt.NDArray[np.intp]:
        """Return the nodes of the only path, from its lower end on."""
        node, before = int(self.ends()[0]), -1
        order = [node]
        while len(order) < len(self._next):
            node, before = next(other for other in self._next[node] if other != before), node
            order.append(node)
        return np.array(order, dtype=np.intp)
