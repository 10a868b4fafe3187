"""Every way in which channels depend on one another: pruned, proved by the check, and by torch in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeopt.model import Model
from edgeopt.prune.equivalence import compare
from edgeopt.prune.surgery import remove


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@dataclass(frozen=True)
class Case:
    """`body` ends by computing `z` [N, C, h, w]; a pooled Gemm to 5 classes follows unless it computes y itself."""

    body: str
    weights: dict[str, Any]
    after: dict[str, tuple[int, ...]]
    """Shapes of some weights after half of each group has left."""
    head: int = 0
    norms: dict[str, str] = field(default_factory=dict)
    io: str = "(float[N,3,8,8] x) => (float[N,5] y)"
    torch: bool = True
    """LayerNormalization over fewer channels is no plain mask: no truth from zeroed torch weights."""


CASES = {
    "residual": Case(
        """a = Conv<pads=[1,1,1,1]>(x, c1) ab = BN(a, bn_1) ar = Relu(ab)
           b = Conv<pads=[1,1,1,1]>(ar, c2, b2) s = Add(ar, b) z = Relu(s)""",
        {"c1": (8, 3, 3, 3), "bn_1": (8,), "c2": (8, 8, 3, 3), "b2": (8,)},
        {"c1": (4, 3, 3, 3), "bn_1_var": (4,), "c2": (4, 4, 3, 3), "b2": (4,)},
        head=8,
    ),
    "depthwise": Case(
        """a = Conv(x, c1) ar = Clip(a, low, high) b = Conv<group=8, pads=[1,1,1,1]>(ar, dw)
           bb = BN(b, bn_1) z = Conv(bb, c2)""",
        {
            "c1": (8, 3, 1, 1),
            "low": np.float32(0),
            "high": np.float32(6),
            "dw": (8, 1, 3, 3),
            "bn_1": (8,),
            "c2": (6, 8, 1, 1),
        },
        {"c1": (4, 3, 1, 1), "dw": (4, 1, 3, 3), "c2": (3, 4, 1, 1)},
        head=6,
    ),
    "depthwise multiplier": Case(
        "a = Conv(x, c1) z = Conv<group=4>(a, dw)",
        {"c1": (4, 3, 1, 1), "dw": (8, 1, 3, 3)},
        {"c1": (2, 3, 1, 1), "dw": (4, 1, 3, 3), "head": (5, 4)},
        head=8,
    ),
    "many narrow groups": Case(
        "a = Conv(x, c1) b = Conv<group=8>(a, gc) z = Conv(b, c2)",
        {"c1": (16, 3, 1, 1), "gc": (24, 2, 3, 3), "c2": (4, 24, 1, 1)},
        {"c1": (8, 3, 1, 1), "gc": (12, 2, 3, 3), "c2": (2, 12, 1, 1)},
        head=4,
    ),
    "few wide groups": Case(
        "a = Conv(x, c1) b = Conv<group=2>(a, gc) z = Conv(b, c2)",
        {"c1": (16, 3, 1, 1), "gc": (12, 8, 3, 3), "c2": (4, 12, 1, 1)},
        {"c1": (8, 3, 1, 1), "gc": (6, 4, 3, 3), "c2": (2, 6, 1, 1)},
        head=4,
    ),
    "concat": Case(
        "a = Conv(x, c1) b = Conv(a, c2) c = Concat<axis=1>(a, b) d = BN(c, bn_1) z = Conv(d, c3)",
        {"c1": (8, 3, 1, 1), "c2": (4, 8, 1, 1), "bn_1": (12,), "c3": (6, 12, 1, 1)},
        {"c1": (4, 3, 1, 1), "c2": (2, 4, 1, 1), "bn_1_mean": (6,), "c3": (3, 6, 1, 1)},
        head=6,
    ),
    "squeeze-excite": Case(
        """a = Conv(x, c1) p = ReduceMean(a, axes) q = Conv(p, s1) qr = Relu(q) r = Conv(qr, s2, sb)
           g = HardSigmoid(r) z = Mul(a, g)""",
        {"c1": (8, 3, 1, 1), "axes": ints(2, 3), "s1": (4, 8, 1, 1), "s2": (8, 4, 1, 1), "sb": (8,)},
        {"c1": (4, 3, 1, 1), "s1": (2, 4, 1, 1), "s2": (4, 2, 1, 1), "sb": (4,)},
        head=8,
    ),
    "layer scale and PRelu": Case(
        "a = Conv(x, c1) b = Mul(a, gamma) z = PRelu(b, slope)",
        {"c1": (8, 3, 1, 1), "gamma": (1, 8, 1, 1), "slope": (8, 1, 1)},
        {"c1": (4, 3, 1, 1), "gamma": (1, 4, 1, 1), "slope": (4, 1, 1)},
        head=8,
    ),
    "flatten": Case(
        """a = Conv<strides=[2,2]>(x, c1) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
           f = Flatten(p) h = Gemm<transB=1>(f, l1, b1) y = Gemm(h, l2)""",
        {"c1": (8, 3, 2, 2), "l1": (10, 32), "b1": (10,), "l2": (10, 5)},
        {"c1": (4, 3, 2, 2), "l1": (5, 16), "b1": (5,), "l2": (5, 5)},
    ),
    "reshape into MatMul": Case(
        "a = Conv<strides=[4,4]>(x, c1) f = Reshape(a, shape) h = MatMul(f, l1) ha = Add(h, b1) y = MatMul(ha, l2)",
        {"c1": (8, 3, 4, 4), "shape": ints(0, 32), "l1": (32, 6), "b1": (6,), "l2": (6, 5)},
        {"c1": (4, 3, 4, 4), "l1": (16, 3), "b1": (3,), "l2": (3, 5)},
    ),
    "reshape to a computed shape": Case(
        """a = Conv<strides=[4,4]>(x, c1) s = Shape(a) n = Gather(s, zero) w = Concat<axis=0>(n, width)
           f = Reshape(a, w) y = MatMul(f, l1)""",
        {"c1": (8, 3, 4, 4), "zero": ints(0), "width": ints(32), "l1": (32, 5)},
        {"c1": (4, 3, 4, 4), "l1": (16, 5)},
    ),
    "channel shuffle": Case(
        """a = Conv(x, c1) b = Conv(x, c2) c = Concat<axis=1>(a, b) v = Reshape(c, apart)
           t = Transpose<perm=[0,2,1,3,4]>(v) s = Reshape(t, together) z = Conv(s, c3)""",
        {
            "c1": (6, 3, 1, 1),
            "c2": (6, 3, 1, 1),
            "apart": ints(-1, 2, 6, 8, 8),
            "together": ints(-1, 12, 8, 8),
            "c3": (4, 12, 3, 3),
        },
        {"c1": (3, 3, 1, 1), "c2": (3, 3, 1, 1), "c3": (2, 6, 3, 3)},
        head=4,
    ),
    "split": Case(
        "a = Conv(x, c1) p, q = Split<axis=1>(a, sizes) pc = Conv(p, c2) qc = Conv(q, c3) z = Add(pc, qc)",
        {"c1": (12, 3, 1, 1), "sizes": ints(4, 8), "c2": (6, 4, 1, 1), "c3": (6, 8, 1, 1)},
        {"c1": (6, 3, 1, 1), "c2": (3, 2, 1, 1), "c3": (3, 4, 1, 1)},
        head=6,
    ),
    "gate of two halves": Case(
        "a = Conv(x, c1) p, q = Split<axis=1, num_outputs=2>(a) g = Sigmoid(q) z = Mul(p, g)",
        {"c1": (12, 3, 1, 1)},
        {"c1": (6, 3, 1, 1), "head": (5, 3)},
        head=6,
    ),
    "slice": Case(
        """a = Conv(x, c1) p = Slice(a, zero, four, axis) q = Slice(a, four, end, axis) pc = Conv(p, c2)
           qc = Conv(q, c3) z = Add(pc, qc)""",
        {
            "c1": (12, 3, 1, 1),
            "zero": ints(0),
            "four": ints(4),
            "end": ints(2**63 - 1),
            "axis": ints(1),
            "c2": (6, 4, 1, 1),
            "c3": (6, 8, 1, 1),
        },
        {"c1": (6, 3, 1, 1), "c2": (3, 2, 1, 1), "c3": (3, 4, 1, 1)},
        head=6,
    ),
    "padded shortcut": Case(
        "a = Conv(x, c1) ar = Relu(a) b = Conv(ar, c2) s = Pad(ar, pads) z = Add(b, s)",
        {"c1": (4, 3, 1, 1), "pads": ints(0, 2, 0, 0, 0, 2, 0, 0), "c2": (8, 4, 1, 1)},
        {"c1": (2, 3, 1, 1), "c2": (4, 2, 1, 1), "head": (5, 4)},
        head=8,
    ),
    "transposed convolution": Case(
        "a = Conv(x, c1) u = ConvTranspose<strides=[2,2]>(a, up, ub) z = Conv(u, c2)",
        {"c1": (8, 3, 1, 1), "up": (8, 6, 2, 2), "ub": (6,), "c2": (4, 6, 1, 1)},
        {"c1": (4, 3, 1, 1), "up": (4, 3, 2, 2), "ub": (3,), "c2": (2, 3, 1, 1)},
        head=4,
    ),
    "depthwise transposed convolution": Case(
        "a = Conv(x, c1) z = ConvTranspose<strides=[2,2], group=8>(a, up)",
        {"c1": (8, 3, 1, 1), "up": (8, 1, 2, 2)},
        {"c1": (4, 3, 1, 1), "up": (4, 1, 2, 2)},
        head=8,
    ),
    "depth to space": Case(
        "a = Conv(x, c1) u = DepthToSpace<blocksize=2>(a) z = Conv(u, c2)",
        {"c1": (24, 3, 1, 1), "c2": (4, 6, 1, 1)},
        {"c1": (12, 3, 1, 1), "c2": (2, 3, 1, 1)},
        head=4,
    ),
    "column-row depth to space": Case(
        'a = Conv(x, c1) u = DepthToSpace<blocksize=2, mode="CRD">(a) z = Conv(u, c2)',
        {"c1": (24, 3, 1, 1), "c2": (4, 6, 1, 1)},
        {"c1": (12, 3, 1, 1), "c2": (2, 3, 1, 1)},
        head=4,
    ),
    "space to depth": Case(
        "a = Conv(x, c1) u = SpaceToDepth<blocksize=2>(a) z = Conv(u, c2)",
        {"c1": (6, 3, 1, 1), "c2": (4, 24, 1, 1)},
        {"c1": (3, 3, 1, 1), "c2": (2, 12, 1, 1)},
        head=4,
    ),
    "layer norm, channels last": Case(
        """a = Conv<strides=[4,4]>(x, c1) t = Transpose<perm=[0,2,3,1]>(a) n1 = LayerNormalization<axis=-1>(t, ls, lb)
           n = LayerNormalization<axis=-1>(n1, ls, lb)
           h = MatMul(n, l1) g = Relu(h) l = MatMul(g, l2) r = Add(t, l) z = Transpose<perm=[0,3,1,2]>(r)""",
        {"c1": (8, 3, 4, 4), "ls": (8,), "lb": (8,), "l1": (8, 12), "l2": (12, 8)},
        {"c1": (4, 3, 4, 4), "ls": (4,), "l1": (4, 6), "l2": (6, 4)},
        head=8,
        torch=False,
    ),
    "attention heads": Case(
        """a = Conv<strides=[2,2]>(x, c1) ar = Reshape(a, flat) t = Transpose<perm=[0,2,1]>(ar)
           q = MatMul(t, wq) k = MatMul(t, wk) v = MatMul(t, wv)
           q4 = Reshape(q, heads) k4 = Reshape(k, heads) v4 = Reshape(v, heads)
           qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,3,1]>(k4) vt = Transpose<perm=[0,2,1,3]>(v4)
           s = MatMul(qt, kt) p = Softmax<axis=-1>(s) o = MatMul(p, vt) ot = Transpose<perm=[0,2,1,3]>(o)
           m = Reshape(ot, merged) w = MatMul(m, wo) r = Add(t, w) rt = Transpose<perm=[0,2,1]>(r)
           z = Unsqueeze(rt, axis)""",
        {
            "c1": (8, 3, 2, 2),
            "flat": ints(0, 8, 16),
            "heads": ints(0, 0, 4, 3),
            "merged": ints(0, 0, 12),
            "axis": ints(3),
        }
        | {"wq": (8, 12), "wk": (8, 12), "wv": (8, 12), "wo": (12, 8)},
        {"c1": (4, 3, 2, 2), "wq": (4, 6), "wk": (4, 6), "wv": (4, 6), "wo": (6, 4)},
        head=8,
    ),
}


def model_of(case: Case, make: SimpleNamespace) -> Model:
    body, weights = case.body, dict(case.weights)
    for name in [name for name in weights if name.startswith("bn_")]:
        source = body.split(f", {name})")[0].rsplit("BN(", 1)[1]
        body = body.replace(f"BN({source}, {name})", make.bn(source, name))
    if case.head:
        body += " pooled = GlobalAveragePool(z) flat_ = Flatten(pooled) y = Gemm<transB=1>(flat_, head, head_bias)"
        weights |= {"head": (5, case.head), "head_bias": (5,)}
    return make.build(body, weights, case.io)


@pytest.mark.parametrize("name", CASES)
def test_pruned_equals_the_masked_original(name: str, make: SimpleNamespace) -> None:
    case = CASES[name]
    model = model_of(case, make)
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    shapes = {weight: array.shape for weight, array in pruned.weights().items()}
    assert {weight: shapes[weight] for weight in case.after} == case.after
    difference = compare(model, pruned, plan, kept, seed=0)
    assert difference.found == ""
    assert difference.relative < 1e-5
    assert not plan.trace.unknown


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.torch])
def test_pruned_equals_zeroed_slices_in_torch(name: str, make: SimpleNamespace) -> None:
    """The record alone, without labels or onnxruntime: zero what it does not keep and run both in float64."""
    torch = pytest.importorskip("torch")
    from edgeopt.model.to_torch import to_torch

    model = model_of(CASES[name], make)
    plan = make.plan_of(model)
    pruned, record = remove(model, plan, make.half(plan))
    whole, small = to_torch(model).double().eval(), to_torch(pruned).double().eval()
    tensors = whole.state_dict()
    for entry in record:
        tensor = tensors.get(entry["name"])
        if tensor is None or entry["name"].endswith("_var"):
            continue
        gone = torch.ones(tensor.shape[entry["axis"]], dtype=torch.bool)
        gone[entry["kept"]] = False
        tensor.index_fill_(entry["axis"], gone.nonzero().ravel(), 0)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(small(x), whole(x), rtol=1e-9, atol=1e-9)


def test_the_original_is_untouched(make: SimpleNamespace) -> None:
    model = model_of(CASES["residual"], make)
    before = model.fingerprint()
    plan = make.plan_of(model)
    remove(model, plan, make.half(plan))
    assert model.fingerprint() == before


def test_residual_channels_are_one_unit(make: SimpleNamespace) -> None:
    """Both convolutions, the norm, the bias and the head of channel i are in one unit."""
    plan = make.plan_of(model_of(CASES["residual"], make))
    assert len(plan.groups) == 1
    owned = {(part.name, part.axis) for part in plan.groups[0].slices}
    assert {("c1", 0), ("c2", 0), ("c2", 1), ("b2", 0), ("bn_1_scale", 0), ("head", 1)} <= owned
    for part in plan.groups[0].slices:
        np.testing.assert_array_equal(part.index, np.arange(8)[:, None])


def test_an_unknown_operator_pins_what_reaches_it_and_nothing_else(make: SimpleNamespace) -> None:
    model = make.build(
        """a = Conv(x, c1) b = LRN<size=3>(a) c = Conv(b, c2) d = Relu(c) e = Conv(d, c3)
           p = GlobalAveragePool(e) y = Flatten(p)""",
        {"c1": (8, 3, 1, 1), "c2": (6, 8, 1, 1), "c3": (5, 6, 1, 1)},
        "(float[N,3,8,8] x) => (float[N,5] y)",
    )
    plan = make.plan_of(model)
    assert plan.trace.unknown == {"node1": "LRN"}
    assert [group.name for group in plan.groups] == ["c2"]
    reasons = {reason: names for reason, names in plan.pinned.items() if "c1" in names}
    assert len(reasons) == 1
    assert "'node1'" in next(iter(reasons))
    assert "LRN" in next(iter(reasons))


def test_model_outputs_keep_their_width(make: SimpleNamespace) -> None:
    plan = make.plan_of(model_of(CASES["flatten"], make))
    assert any("output" in reason and "l2" in names for reason, names in plan.pinned.items())
    assert all((part.name, part.axis) != ("l2", 1) for group in plan.groups for part in group.slices)
