"""The cheapest placement is found exactly by the model of costs, and by measurement whatever the model says."""

import itertools
import random

import numpy as np
import pytest

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.observe import observe
from edgeopt.quantize.samples import samples_of
from edgeopt.quantize.search import build_as_delivered, find_fast
from edgeopt.quantize.speed import TYPICAL, cheapest, finish
from edgeopt.quantize.speed.costs import elements
from edgeopt.quantize.speed.cut import FORBIDDEN, Problem, Tensor, solve, total
from edgeopt.quantize.speed.labels import Labels
from edgeopt.quantize.weights import MaxScale
from edgeopt.tiers import load_tier


def problems(count, nodes=7):
    for seed in range(count):
        draw = random.Random(seed)
        tensors = []
        for maker in (None, *range(nodes)):
            later = [n for n in range(nodes) if maker is None or n > maker]
            readers = tuple(sorted(draw.sample(later, min(len(later), draw.randint(0, 3)))))
            tensors.append(Tensor(maker, readers, draw.randint(0, 60), draw.randint(0, 60), draw.random() < 0.2))
        yield Problem(
            tuple(draw.randint(0, 100) for _ in range(nodes)),
            tuple(draw.choice([draw.randint(0, 100), FORBIDDEN]) for _ in range(nodes)),
            tuple(tensors),
            ((4, 2), (5, 1)) if seed % 2 else (),
        )


def test_the_cut_is_the_optimum_of_all_labellings():
    for problem in problems(60):
        nodes = range(len(problem.floating))
        everyone = (frozenset(s) for n in range(len(nodes) + 1) for s in itertools.combinations(nodes, n))
        best = min(total(problem, labels) for labels in everyone)
        assert total(problem, solve(problem)) == best


def test_a_tensor_is_converted_once_whatever_the_number_of_its_readers():
    tensor = Tensor(0, (1, 2, 3), 10, 7)
    problem = Problem((5, 5, 5, 5), (0, 0, 0, 0), (tensor,))
    assert total(problem, frozenset()) == 20
    assert total(problem, frozenset({0})) == 15 + 7
    assert total(problem, frozenset({1, 2, 3})) == 5 + 10


def test_of_two_optima_the_one_with_fewer_integers_is_taken():
    assert solve(Problem((5, 5), (5, 5), ())) == frozenset()


@pytest.fixture
def make_builder(make_images):
    def make(model: Model, excluded=(), tier="any") -> Builder:
        tier = load_tier(tier)
        name = model.inputs[0].name
        shape = [dim for dim in model.inputs[0].shape[1:] if isinstance(dim, int)]
        samples = [{name: make_images(8, shape)}]
        seen = observe(model, wanted_tensors(model, tier), samples, counts=False)
        return Builder(model, tier, seen.histograms, MinMax(), MaxScale(), frozenset(excluded))

    return make


@pytest.fixture
def small_net(new_net):
    """Two wide pointwise convolutions around a depthwise one, an Add and a Gemm: six that may change sides."""
    net = new_net(channels=16, size=16)
    y = net.conv("x", 16, 64, 1)
    y = net.conv(y, 64, 64, group=64)
    y = net.conv(y, 64, 16, 1)
    return net.model(net.head(net.add("Add", y, "x"), 16))


def seconds_of(costs):
    """A stopwatch that reads a Q/DQ model and adds up costs that are made up."""

    def time_models(models):
        return [sum(costs(node) for node in model.graph.graph) for model in models]

    return time_models


def made_up(node):
    """Integer products cost a third, depthwise ones double, each conversion 1 and what it moves."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return 0.0 if node.inputs[0].const_value is not None else 1 + elements(node.outputs[0]) / 8192
    maker = node.inputs[0].producer()
    integer = maker is not None and maker.op_type == "DequantizeLinear"
    full = {"Conv": 9.0, "Gemm": 6.0}.get(node.op_type, 0.5)
    if node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1:
        return 8.0 if integer else 4.0
    return full / 3 if integer else full


def test_measurement_finds_the_fastest_of_all_placements(make_builder, small_net, make_context, make_images):
    builder = make_builder(small_net)
    context = make_context(make_images(16, (16, 16, 16)))
    samples = samples_of(small_net, context.data.calibration, 16, 0)
    stopwatch = seconds_of(made_up)
    found = find_fast(builder, samples, context, time_models=stopwatch, clock=lambda: 0.0)
    names = builder.candidates()
    placements = [frozenset(s) for n in range(len(names) + 1) for s in itertools.combinations(names, n)]
    times = stopwatch([build_as_delivered(builder, placement) for placement in placements])
    assert min(times) <= found.facts["chosen_ms"] + 1e-3 <= 1.03 * min(times)
    assert found.facts["chosen_ms"] < min(found.facts["float_ms"], found.facts["all_integer_ms"])
    again = find_fast(builder, samples, context, time_models=stopwatch, clock=lambda: 0.0)
    assert again == found


def test_excluded_nodes_stay_in_float(make_builder, small_net, make_context, make_images):
    builder = make_builder(small_net, excluded=["gemm_6"])
    context = make_context(make_images(16, (16, 16, 16)))
    samples = samples_of(small_net, context.data.calibration, 16, 0)
    found = find_fast(builder, samples, context, time_models=seconds_of(made_up), clock=lambda: 0.0)
    assert "gemm_6" not in builder.candidates()
    assert "gemm_6" in builder.build(found.floating).plan.floating


def test_no_change_is_begun_after_the_budget(make_builder, small_net, make_context, make_images):
    builder = make_builder(small_net)
    context = make_context(make_images(16, (16, 16, 16)))
    samples = samples_of(small_net, context.data.calibration, 16, 0)
    ticks = itertools.count(0.0, 100.0)
    short = find_fast(
        builder, samples, context, time_budget=50.0, time_models=seconds_of(made_up), clock=lambda: next(ticks)
    )
    long = find_fast(builder, samples, context, time_models=seconds_of(made_up), clock=lambda: 0.0)
    assert short.facts["models_timed"] < long.facts["models_timed"]
    assert short.facts["chosen_ms"] <= min(short.facts["float_ms"], short.facts["all_integer_ms"])


def test_where_integers_never_pay_the_float_model_comes_back(make_builder, small_net, make_context, make_images):
    builder = make_builder(small_net)
    context = make_context(make_images(16, (16, 16, 16)))
    samples = samples_of(small_net, context.data.calibration, 16, 0)
    slow = seconds_of(lambda node: 5.0 if node.op_type.endswith("Linear") else 1.0)
    found = find_fast(builder, samples, context, time_models=slow, clock=lambda: 0.0)
    assert found.floating == set(builder.candidates())
    assert build_as_delivered(builder, found.floating) is builder.model


def test_a_chain_of_wide_layers_is_worth_integers_and_a_lonely_small_one_is_not(new_net):
    net = new_net(channels=64, size=56)
    wide = net.model(net.head(net.conv(net.conv("x", 64, 256), 256, 256), 256))
    names = [node.name for node in wide.graph.graph]
    assert not {"conv_0", "conv_1"} & cheapest(wide, names)
    net = new_net(channels=8, size=14)
    small = net.model(net.add("HardSwish", net.conv("x", 8, 8, 1)), opset=20)
    assert cheapest(small, ["conv_0"]) == {"conv_0"}


def test_a_label_that_is_given_holds_and_its_neighbours_follow(mobilenet_model, make_builder):
    builder = make_builder(mobilenet_model)
    labels = Labels(mobilenet_model, builder.candidates(), TYPICAL)
    (convolution, *_), free = [n.name for n in labels.nodes if n.op_type == "Conv"], labels.floating()
    assert convolution in labels.floating({convolution: False})
    assert convolution not in labels.floating({convolution: True})
    assert labels.total(free) <= labels.total(labels.floating({convolution: convolution in free}))


@pytest.fixture
def squeeze_excite(new_net):
    """A depthwise convolution, scales from its mean, their product, a pointwise convolution."""
    net = new_net(channels=16, size=16)
    y = net.add("Relu", net.conv("x", 16, 16, group=16))
    s = net.add("Relu", net.conv(net.add("GlobalAveragePool", y), 16, 16, 1))
    s = net.add("HardSigmoid", net.conv(s, 16, 16, 1))
    return net.model(net.conv(net.add("Mul", s, y), 16, 16, 1))


def test_scales_are_expanded_bit_for_bit_where_floats_stay_blocked(squeeze_excite):
    finished = finish(squeeze_excite)
    assert sum(node.op_type == "Resize" for node in finished.graph.graph) == 1
    assert not any(node.op_type == "Resize" for node in squeeze_excite.graph.graph)
    x = np.random.default_rng(0).standard_normal((3, 16, 16, 16)).astype(np.float32)
    before, after = (run(open_session(model, threads=1), x)[0] for model in (squeeze_excite, finished))
    assert np.array_equal(before, after)


def test_scales_that_integers_read_are_left_alone(squeeze_excite, make_builder):
    builder = make_builder(squeeze_excite)
    last = [node.name for node in squeeze_excite.graph.graph if node.op_type == "Conv"][-1]
    mixed = finish(builder.build(set(builder.candidates()) - {last}).model)
    assert not any(node.op_type == "Resize" for node in mixed.graph.graph)


def test_swish_behind_integers_becomes_one_kernel(new_net, make_builder, optimized_operators):
    net = new_net(channels=16, size=16)
    y = net.conv("x", 16, 32, 1)
    model = net.model(net.conv(net.add("Mul", y, net.add("Sigmoid", y)), 32, 16, 1))
    builder = make_builder(model)
    mixed = builder.build([n.name for n in model.graph.graph if n.op_type != "Conv"]).model
    assert "QuickGelu" not in optimized_operators(mixed)
    assert "QuickGelu" in optimized_operators(finish(mixed))
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 16)).astype(np.float32)
    before, after = (run(open_session(m, threads=1, optimize=False), x)[0] for m in (mixed, finish(mixed)))
    assert np.array_equal(before, after)


@pytest.fixture
def optimized_operators(tmp_path):
    """The operators that onnxruntime runs for a model, with everything it knows about this machine."""

    def operators(model: Model) -> list[str]:
        import onnx
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        ort.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]

    return operators


def test_what_is_placed_for_explicit_quantization_breaks_none_of_its_rules(
    make_builder, resnet_model, mobilenet_model, squeeze_excite
):
    from edgeopt.export.lint import lint

    for model in (resnet_model, mobilenet_model, squeeze_excite):
        builder = make_builder(model, tier="jetson")
        assert lint(builder.build().model, builder.tier.placement) == []
        assert lint(make_builder(model).build().model, builder.tier.placement) != []


def test_what_onnxruntime_leaves_in_float_is_named(make_builder, mobilenet_model):
    from edgeopt.quantize.verify import unfused

    built = make_builder(mobilenet_model).build()
    assert unfused(built.model, {}, built.plan.integer) == []
    broken = built.model.copy()
    add = next(node for node in broken.graph.graph if node.op_type == "Add")
    add.replace_input_with(1, add.inputs[1].producer().inputs[0].producer().inputs[0])  # its pair taken away
    assert add.name in unfused(broken, {}, built.plan.integer)


def test_integer_products_with_a_float_result_are_integers_but_no_tier_of_integers_takes_them(
    new_net, make_images, make_builder
):
    from edgeopt.quantize.verify import float_leftovers, fused_operators, unfused

    net = new_net()
    model = net.model(net.add("Softmax", net.add("MatMul", "x", net.weight(16, 16))))
    built = make_builder(model).build()
    assert ("matmul_0", "MatMulIntegerToFloat") in fused_operators(built.model, {})
    assert unfused(built.model, {}, built.plan.integer) == []
    assert float_leftovers(built.model, {}) == [("matmul_0", "MatMulIntegerToFloat")]
