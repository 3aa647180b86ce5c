"""Prices are fitted to times of calls: found again where calls tell them apart, the default's where they don't."""

import numpy as np
import pytest

from zarrvec.objects import memory
from zarrvec.planner.calibrating import PRICES, calibrated_machine, fitted
from zarrvec.planner.effort import Effort
from zarrvec.planner.targets import Machine

pytestmark = pytest.mark.once


def timed(machine, amounts, codec_seconds=0.0):
    effort = Effort(codec_seconds=codec_seconds, amounts=amounts)
    return effort, machine.call_seconds + effort.seconds(machine)


def test_prices_are_found_again():
    true = Machine(**{name: 3 * getattr(Machine(), name) for name in PRICES})
    calls = [timed(true, {}), timed(true, {}, codec_seconds=0.5)]
    for name in PRICES:
        if name != "call_seconds":
            calls += [timed(true, {name: times / getattr(true, name)}, 0.25) for times in (0.1, 1, 10)]
    efforts, taken = zip(*calls, strict=True)
    found = fitted(efforts, taken, Machine())
    for name in PRICES:
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.01), name
    assert found.threads == Machine().threads


def test_what_no_call_tells_is_the_default():
    found = fitted([Effort(codec_seconds=0.0, amounts={})] * 9, [2e-3] * 9, Machine())
    assert found.call_seconds == pytest.approx(2e-3, rel=0.01)
    assert found.pick_seconds == pytest.approx(Machine().pick_seconds, rel=1e-6)


def test_no_price_is_negative():
    rng = np.random.default_rng(3)
    efforts = [
        Effort(codec_seconds=0.0, amounts={name: rng.uniform(0, 1e6) for name in PRICES}) for _ in range(40)
    ]
    found = fitted(efforts, rng.uniform(1e-3, 1, size=40).tolist(), Machine())
    prices = [getattr(found, name) for name in PRICES]
    assert min(prices) >= 0
    assert max(prices) > 0


def test_this_machine_is_measured_and_nothing_is_left():
    before = set(memory._SHARED)
    machine = calibrated_machine()
    assert machine.call_seconds > 0
    assert 1 <= machine.speedup <= machine.threads
    assert machine.chunk_read_seconds > 0
    assert set(memory._SHARED) == before
