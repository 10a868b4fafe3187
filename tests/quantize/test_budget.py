"""The accuracy budget: exactly the layers that are needed in float, within the time, and the best so far on Ctrl-C."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from arrays import Arrays, split_of
from heard import Heard

from edgeopt.data import Data, Split
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize import budget, judge
from edgeopt.quantize.budget import meet_budget
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.judge import Judge, Verdict, images_to_judge
from edgeopt.quantize.observe import observe
from edgeopt.quantize.prepare import prepare
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.sensitivity import Sensitivity
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import load_tier


def poisoned(new_net: Callable, x: np.ndarray) -> Model:
    """Four convolutions; the third has a huge weight on a channel that is always zero: nothing in float, and all its
    other weights vanish in int8. The logits are centred on `x`, so that different images get different answers."""
    logits = run(open_session(_poisoned(new_net, np.zeros(10, np.float32))), x)[0]
    return _poisoned(new_net, -logits.mean(axis=0))


def _poisoned(new_net: Callable, bias: np.ndarray) -> Model:
    net = new_net()
    x = net.add("Relu", net.conv("x", 3, 16))
    for index in range(3):
        array = net.random.standard_normal((16, 16, 3, 3)).astype(np.float32) * 0.12
        if index == 0:
            array[3] = 0.0
        if index == 1:
            array[:, 3] = 80.0
        x = net.add("Relu", net.add("Conv", x, net.constant(array), kernel_shape=[3, 3], pads=[1] * 4))
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.model(net.add("Gemm", flat, net.weight(10, 16), net.constant(bias), transB=1))


POISONED = "conv_4"


def setting(
    model: Model, x: np.ndarray, *, labelled: bool = True, tier: str = "any", calibration: int = 32
) -> tuple[Builder, Samples, Context]:
    """All images are training images, labelled by the float model itself; the first ones are for calibration."""
    context = Context(tier=load_tier(tier), progress=Heard())
    prepared = prepare(model, load_tier(tier), context)
    answers = run(open_session(prepared), x)[0].argmax(axis=1) if labelled else None
    train = split_of(x, answers)
    first = train.take(np.arange(calibration))
    seen = observe(prepared, wanted_tensors(prepared, load_tier(tier)), (b.x for b in first.batches(16)), counts=True)
    builder = Builder(prepared, load_tier(tier), seen.histograms, MinMax(), MaxScale())
    data = Data("images", train, first, train, (), None, "f")
    return builder, Samples(first, ("x",)), replace(context, data=data)


@pytest.fixture
def poisoned_setting(unsimplified: None, new_net: Callable, make_images: Callable):
    x = make_images(432)
    return setting(poisoned(new_net, x), x)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("tier", ["any", "jetson"])
def test_the_poisoned_layer_and_nothing_else_stays_in_float(
    labelled: bool, tier: str, unsimplified: None, new_net: Callable, make_images: Callable
) -> None:
    x = make_images(432)
    builder, samples, context = setting(poisoned(new_net, x), x, labelled=labelled, tier=tier)
    found = meet_budget(builder, samples, max_drop=10, time_budget=600, context=context)
    assert found.floating == {POISONED}
    facts = found.facts
    assert facts["float_layers"] == [POISONED]
    assert facts["measured"] == ("accuracy" if labelled else "agreement")
    assert facts["int8_drop_points"] > 20 > facts["drop_points"]
    assert facts["reached"]
    assert facts["drop_low_points"] <= facts["drop_points"] <= facts["drop_high_points"]
    assert facts["judged_images"] == 400
    assert facts["judged_on"] == "training images beyond the calibration samples"
    assert facts["stopped_by"] is None
    assert context.progress.warnings == []


def test_a_budget_that_int8_meets_leaves_everything_in_int8(
    resnet_model: Model, unsimplified: None, make_images: Callable
) -> None:
    builder, samples, context = setting(resnet_model, make_images(232))
    found = meet_budget(builder, samples, max_drop=10, time_budget=600, context=context)
    assert found.floating == frozenset()
    assert found.facts["measurements"] == 1


def test_an_integer_only_tier_is_told_what_would_do(poisoned_setting) -> None:
    builder, samples, context = poisoned_setting
    with pytest.raises(UsageError, match=r"--preset best.*--qat"):
        meet_budget(replace(builder, tier=load_tier("mcu")), samples, max_drop=1, time_budget=9, context=context)


class Bench:
    """A budget search over many layers whose drop is a formula: no network is run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ranked: list[str], drop: Callable[[frozenset], float]) -> None:
        self.tried: list[frozenset] = []
        self.seconds = 0.0
        bench = self

        class Formula:
            measure = "accuracy"

            def __init__(self, *_: object) -> None:
                pass

            def __len__(self) -> int:
                return 2000

            def judge(self, model: frozenset, _: str) -> Verdict:
                bench.tried.append(model)
                bench.seconds += 1
                value = drop(model)
                return Verdict(value, value - 1, value + 1, 20.0)

        layers = [Sensitivity(name, name, "Conv", 1.0, 1.0, 1.0, 0.0) for name in ranked]
        monkeypatch.setattr(budget, "Judge", Formula)
        monkeypatch.setattr(budget, "rank", lambda *_, **__: layers)
        monkeypatch.setattr(Builder, "build", lambda self, floating=(): _Built(frozenset(floating)))

    def clock(self) -> float:
        return self.seconds


class _Built:
    def __init__(self, model: frozenset) -> None:
        self.model = model
        self.plan = self
        self.weights = ("some",)


NAMES = [f"layer{i:02d}" for i in range(60)]


@pytest.mark.parametrize("needed", [{0}, {0, 1, 2}, {4}, {1, 30}, {59}])
def test_the_needed_ones_are_found_in_few_measurements(
    needed: set[int], poisoned_setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, samples, context = poisoned_setting
    wanted = frozenset(NAMES[i] for i in needed)
    bench = Bench(monkeypatch, NAMES, lambda floating: 3.0 * len(wanted - floating))
    found = meet_budget(builder, samples, max_drop=0.5, time_budget=1e9, context=context, clock=bench.clock)
    assert found.floating == wanted
    assert len(bench.tried) <= 2 + math.log2(60) + min(2 * max(needed), 16)
    assert len(bench.tried) == len(set(bench.tried)) == found.facts["measurements"]


def test_the_time_budget_ends_the_search_with_the_best_so_far(
    poisoned_setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, samples, context = poisoned_setting
    bench = Bench(monkeypatch, NAMES, lambda floating: 0.0 if set(NAMES[:20]) <= floating else 9.0)
    found = meet_budget(builder, samples, max_drop=0.5, time_budget=4, context=context, clock=bench.clock)
    assert len(bench.tried) == 4  # a second each: int8, 30, 15, 22 layers
    assert len(found.floating) == 22
    assert found.facts["reached"]
    assert found.facts["stopped_by"] == "time_budget"
    assert "4 s are spent" in context.progress.warnings[0]
    assert "22 layers in float" in context.progress.warnings[0]


def test_no_time_for_a_set_that_reaches_it_the_nearest_is_kept(
    poisoned_setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, samples, context = poisoned_setting
    bench = Bench(monkeypatch, NAMES, lambda floating: 10 - len(floating) / 10)
    found = meet_budget(builder, samples, max_drop=0.5, time_budget=3, context=context, clock=bench.clock)
    assert len(found.floating) == 45
    assert not found.facts["reached"]
    assert "5.50 pt, not the 0.5 pt asked for" in context.progress.warnings[0]


def test_ctrl_c_keeps_the_best_so_far_and_goes_on(poisoned_setting, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, samples, context = poisoned_setting

    def drop(floating: frozenset) -> float:
        if len(floating) == 22:
            raise KeyboardInterrupt
        return 0.0 if set(NAMES[:20]) <= floating else 9.0

    bench = Bench(monkeypatch, NAMES, drop)
    found = meet_budget(builder, samples, max_drop=0.5, time_budget=1e9, context=context, clock=bench.clock)
    assert len(found.floating) == 30
    assert found.facts["stopped_by"] == "ctrl_c"
    assert "Ctrl-C" in context.progress.warnings[0]
    assert "30 layers in float" in context.progress.warnings[0]


def test_ctrl_c_before_anything_was_measured(poisoned_setting, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, samples, context = poisoned_setting

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    Bench(monkeypatch, NAMES, interrupted)
    found = meet_budget(builder, samples, max_drop=0.5, time_budget=1e9, context=context)
    assert found.floating == frozenset()
    assert not found.facts["reached"]
    assert "every layer in int8" in context.progress.warnings[0]


def test_a_budget_that_nothing_reaches_is_said(poisoned_setting, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, samples, context = poisoned_setting
    bench = Bench(monkeypatch, NAMES, lambda floating: 3.0 if floating else 2.0)
    found = meet_budget(builder, samples, max_drop=0.5, time_budget=1e9, context=context, clock=bench.clock)
    assert found.floating == frozenset()
    assert not found.facts["reached"]
    assert "2.00 pt, not the 0.5 pt asked for" in context.progress.warnings[0]


def test_test_images_and_calibration_samples_are_not_judged_on(make_images: Callable) -> None:
    x = make_images(300)
    source = Arrays(x)
    train = Split(source, np.arange(200), None, None)
    data = Data("d", train, train.take(np.arange(50)), Split(source, np.arange(200, 300), None, None), (), None, "f")
    samples = Samples(data.calibration, ("x",))
    images, words = images_to_judge(samples, Context(data=data))
    assert sorted(images.index) == list(range(50, 200))
    assert words == "training images beyond the calibration samples"
    few = Samples(train.take(np.arange(150)), ("x",))
    images, words = images_to_judge(few, Context(data=data))
    assert sorted(images.index) == list(range(200))
    assert "among them" in words
    assert images_to_judge(samples, Context())[0] is samples.split


def test_a_drop_finer_than_an_image_is_warned_about(
    resnet_model: Model, unsimplified: None, make_images: Callable
) -> None:
    builder, samples, context = setting(resnet_model, make_images(140))
    meet_budget(builder, samples, max_drop=0.5, time_budget=600, context=context)
    assert "cannot be told on 108 images" in context.progress.warnings[0]


def test_the_verdict_is_the_paired_drop_by_hand(
    resnet_model: Model, unsimplified: None, make_images: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = make_images(70)
    builder, _, context = setting(resnet_model, x, tier="jetson")
    assert context.data is not None
    truth = np.arange(70) % 10
    images = split_of(x, truth)
    model = builder.build().model
    expected, got = (run(open_session(m), x)[0] for m in (builder.model, model))
    monkeypatch.setattr(judge, "KEPT_BYTES", 1)  # outputs of the first batch are always kept
    verdict = Judge(builder.model, images, builder.tier, context).judge(model)
    drop = 100 * (np.mean(expected.argmax(1) == truth) - np.mean(got.argmax(1) == truth))
    assert verdict.drop_points == pytest.approx(drop)
    first = slice(0, 32)
    noise = np.square(expected[first].astype(np.float64) - got[first]).sum()
    power = np.square(expected[first].astype(np.float64)).sum()
    assert verdict.sqnr_db == pytest.approx(10 * np.log10(power / noise), abs=0.01)
