"""Targets as people write them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgeopt.prune import Prune, Target


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("params=-60%", {"params": -0.6}),
        ("macs=-12.5%", {"macs": -0.125}),
        ("params=-60%, macs=-50%", {"params": -0.6, "macs": -0.5}),
        ("params=50k,macs=20M", {"params": 50_000, "macs": 20_000_000}),
        ("size=100KB,ram=64KiB", {"size": 100_000, "ram": 65_536}),
        ("latency=5ms", {"latency": 5.0}),
        ("latency=250us", {"latency": 0.25}),
        ("latency=-40%,size=-50%,ram=-30%", {"latency": -0.4, "size": -0.5, "ram": -0.3}),
        ("params=-99.9%", {"params": -0.999}),
    ],
)
def test_targets_are_read_from_text_and_survive_a_dump(text: str, wanted: dict[str, float]) -> None:
    stage = Prune.model_validate({"target": text})
    assert stage.target.wanted == pytest.approx(wanted)
    assert Prune.model_validate(stage.model_dump()) == stage
    assert Prune.model_validate_json(stage.model_dump_json()) == stage


@pytest.mark.parametrize(
    "text",
    ["params", "params=60%", "params=-120%", "weights=-50%", {}, {"params": "half"}, "params=0", "size=5ms", "ram=-0%"],
)
def test_what_is_no_target_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        Target.model_validate(text)


def test_what_people_read_has_their_own_digits_and_units() -> None:
    target = Target.model_validate("params=-99.9%,size=100KB,latency=1.5ms,macs=2M")
    assert str(target) == "params=-99.9%, macs=2,000,000, size=100 KB, latency=1.5 ms"
    assert target.model_dump(mode="json", exclude_none=True)["params"] == "-99.9%"


def test_limits_are_amounts_and_half_of_the_way_is_in_equal_ratios() -> None:
    target = Target.model_validate("params=-75%,size=100KB,ram=1MB")
    before = {"params": 1000.0, "size": 400_000.0, "ram": 5000.0}
    assert target.limits(before) == pytest.approx({"params": 250, "size": 100_000, "ram": 1_000_000})
    assert target.limits(before, 0.5) == pytest.approx({"params": 500, "size": 200_000, "ram": 1_000_000})
