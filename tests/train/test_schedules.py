import math

import pytest

from edgeopt.train.schedules import Cosine, OneCycle


def test_one_cycle_is_a_triangle():
    schedule = OneCycle(warmup=0.25, start=0.2, final=0.1)
    assert schedule.factor(0) == pytest.approx(0.2)
    assert schedule.factor(0.125) == pytest.approx(0.6)
    assert schedule.factor(0.25) == pytest.approx(1)
    assert schedule.factor(0.625) == pytest.approx(0.55)
    assert schedule.factor(1) == pytest.approx(0.1)


def test_cosine_falls_as_half_a_cosine_after_the_warm_up():
    schedule = Cosine(warmup=0.2, start=0.0, final=0.0)
    assert schedule.factor(0.1) == pytest.approx(0.5)
    assert schedule.factor(0.2) == pytest.approx(1)
    assert schedule.factor(0.4) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert schedule.factor(1) == pytest.approx(0)


@pytest.mark.parametrize("kind", [OneCycle, Cosine])
def test_without_warm_up_it_starts_at_the_peak(kind):
    factors = [kind(warmup=0).factor(step / 50) for step in range(51)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
