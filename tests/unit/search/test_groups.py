"""Are lists grouped with their neighbours, and do searches look at the groups that matter?"""

import numpy as np
import pytest

from zarrvec.search import groups
from zarrvec.search.calibrate import CALIBRATED_K, limit_to_groups, list_ranks, nprobe_grid
from zarrvec.search.depth import Compass
from zarrvec.search.groups import ALWAYS, OVERGROWN, Nearness, are_grouped, groups_of, ordered_in_groups

METRICS = ["cosine", "l2", "ip"]


def centroids(count=900, width=12, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(40, width))
    return (centres[random.integers(40, size=count)] + 0.3 * random.normal(size=(count, width))).astype("f4")


def test_every_list_is_in_one_group_near_others():
    vectors = centroids()
    order, sizes = ordered_in_groups(vectors, 0)
    assert sorted(order.tolist()) == list(range(900))
    assert sizes.sum() == 900
    assert sizes.min() >= 1
    spread = sum(
        part.var(axis=0).sum() * len(part) for part in np.split(vectors[order], np.cumsum(sizes)[:-1])
    )
    assert spread < 0.3 * vectors.var(axis=0).sum() * 900
    steps = np.linalg.norm(np.diff(vectors[order], axis=0), axis=1).mean()
    assert steps < 0.6 * np.linalg.norm(np.diff(vectors, axis=0), axis=1).mean()


def test_groups_that_outgrow_others_are_cut():
    random = np.random.default_rng(0)
    vectors = np.concatenate([np.zeros((800, 4)), 100 * random.normal(size=(100, 4))]).astype("f4")
    _, sizes = ordered_in_groups(vectors, 0)
    assert sizes.max() <= OVERGROWN * 900 / (groups.GROUPS * 30)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_lists_have_groups_too(count):
    order, sizes = ordered_in_groups(centroids(count), 0)
    assert sorted(order.tolist()) == list(range(count))
    assert sizes.sum() == count


def test_equal_lists_have_groups_too():
    order, sizes = ordered_in_groups(np.ones((50, 3), "f4"), 0)
    assert sorted(order.tolist()) == list(range(50))
    assert sizes.sum() == 50


def test_no_centroid_is_beyond_the_radius_of_its_group():
    vectors = centroids()
    order, sizes = ordered_in_groups(vectors, 0)
    table = groups_of(vectors[order], sizes)
    around = np.repeat(table.vectors(), sizes, axis=0).astype("f8")
    away = np.linalg.norm(vectors[order] - around, axis=1)
    assert (away <= np.repeat(table.heads["radius"], sizes)).all()
    assert table.heads["offset"].tolist() == (np.cumsum(sizes) - sizes).tolist()
    assert table.heads["count"].tolist() == sizes.tolist()
    assert not table.heads["crc_low"].any()


@pytest.mark.parametrize(
    ("nlist", "width", "grouped"), [(81_920, 74, False), (83_000, 74, True), (1, 4, False)]
)
def test_only_long_tables_are_grouped(nlist, width, grouped):
    assert are_grouped(nlist, width) == grouped


def nearness(metric, queries=30):
    vectors = centroids()
    order, sizes = ordered_in_groups(vectors, 0)
    table = groups_of(vectors[order], sizes)
    compass = Compass.of(table.vectors(), table.heads["radius"], metric)
    asked = centroids(queries, seed=1)
    return Nearness.of(compass, sizes, asked), sizes, vectors[order], table, compass, asked


@pytest.mark.parametrize("seen", [1.0, 3.0, 7.5])
def test_what_is_needed_is_what_is_seen(seen):
    near, sizes, *_ = nearness("l2")
    needed = near.needed(seen)
    for nprobe in (1, 2, 5, 20, 100, 900):
        rank = near.seen(seen, nprobe)
        by_number = np.zeros_like(rank)
        np.put_along_axis(by_number, near.order, rank, axis=1)
        assert (by_number == (needed < nprobe)).all()
        assert (np.where(by_number, sizes, 0).sum(axis=1) >= min(900, seen * (nprobe + ALWAYS))).all()
    assert near.seen(seen, 900).all()


@pytest.mark.parametrize("metric", METRICS)
def test_enough_groups_are_looked_at(metric):
    near, sizes, vectors, table, compass, queries = nearness(metric, 200)
    probes = Compass.of(vectors, np.ones(len(vectors), "f4"), metric).probe(queries, 100)
    lists = probes.lists[:, :, None].astype(
        "i4"
    )  # the true neighbours: one in each of the lists nearest to the query
    ranks, _ = list_ranks(queries, Compass.of(vectors, np.ones(len(vectors), "f4"), metric), lists)
    seen, limited = limit_to_groups(queries, lists, ranks, table, compass)
    assert seen >= 1
    assert (limited >= ranks).all()
    in_group = np.repeat(np.arange(len(sizes)), sizes)
    for k in CALIBRATED_K:
        for nprobe in nprobe_grid(len(vectors)):
            before = (ranks[:, :k, 0] < nprobe).mean()
            is_seen = np.zeros_like(near.order, dtype=bool)
            np.put_along_axis(is_seen, near.order, near.seen(seen, nprobe), axis=1)
            found = (ranks[:, :k, 0] < nprobe) & np.take_along_axis(
                is_seen, in_group[lists[:, :k, 0]], axis=1
            )
            assert found.mean() == pytest.approx((limited[:, :k, 0] < nprobe).mean())
            assert before < 0.8 or before - found.mean() <= 0.003


def test_no_list_is_in_no_group():
    _, _, vectors, table, compass, queries = nearness("l2")
    lists = np.full((len(queries), 10, 2), -1, "i4")
    lists[:, :, 0] = np.arange(10)
    ranks, _ = list_ranks(queries, Compass.of(vectors, np.ones(len(vectors), "f4"), "l2"), lists)
    _, limited = limit_to_groups(queries, lists, ranks, table, compass)
    assert (limited[:, :, 1] == len(vectors)).all()
    assert (limited[:, :, 0] < len(vectors)).all()
