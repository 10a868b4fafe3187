"""Operators beside convolutions and layers: a small graph each, pruned by half and compared with the masked original.

Each case says the shapes that some weights then have, so that a rule that pins too much fails as one that couples too
little does.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.model import Model
from edgeopt.prune.equivalence import compare
from edgeopt.prune.rules.einsum import terms
from edgeopt.prune.surgery import remove

TOKENS = "(float[N,4,6] x) => (float[N,4,5] y)"
IMAGE = "(float[N,3,8,8] x) => (float[N,5] y)"


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@dataclass(frozen=True)
class Case:
    body: str
    weights: dict[str, Any]
    after: dict[str, tuple[int, ...]]
    io: str = IMAGE
    opset: int = 20


HEAD = " pooled = GlobalAveragePool(z) flat = Flatten(pooled) y = Gemm<transB=1>(flat, head)"

CASES = {
    "tile": Case(
        "p = Conv(table, c1) t = Tile(p, copies) a = Conv(x, c2) z = Add(a, t)" + HEAD,
        {"table": (1, 2, 4, 4), "c1": (6, 2, 1, 1), "copies": ints(1, 1, 2, 2), "c2": (6, 3, 1, 1), "head": (5, 6)},
        {"c1": (3, 1, 1, 1), "c2": (3, 3, 1, 1), "head": (5, 3)},
    ),
    "tile along the channels": Case(
        "a = Conv(x, c1) t = Tile(a, copies) z = Conv(t, c2)" + HEAD,
        {"c1": (6, 3, 1, 1), "copies": ints(1, 2, 1, 1), "c2": (4, 12, 1, 1), "head": (5, 4)},
        {"c1": (3, 3, 1, 1), "c2": (2, 6, 1, 1)},
    ),
    "a norm that is repeated over the channels": Case(
        """h = MatMul(x, l1) n = ReduceL2(h, last) w = Expand(n, wide) d = Div(h, w) y = MatMul(d, l2)""",
        {"l1": (6, 12), "last": ints(-1), "wide": ints(1, 4, 12), "l2": (12, 5)},
        {"l1": (6, 6), "l2": (6, 5)},
        TOKENS,
    ),
    "a kernel of one passes the dims beside the channels": Case(
        """h = MatMul(x, l1) g = Relu(h) c = Conv(g, c1, b1) y = MatMul(c, l2)""",
        {"l1": (6, 8), "c1": (4, 4, 1), "b1": (4,), "l2": (8, 5)},
        {"l1": (6, 4), "l2": (4, 5)},
        TOKENS,
    ),
    "a wide kernel does not": Case(
        """h = MatMul(x, l1) c = Conv<pads=[1,1]>(h, c1, b1) y = MatMul(c, l2)""",
        {"l1": (6, 8), "c1": (4, 4, 3), "b1": (4,), "l2": (8, 5)},
        {"l1": (6, 8), "l2": (8, 5)},
        TOKENS,
    ),
    "col2im": Case(
        "a = Conv<strides=[2,2]>(x, c1) f = Reshape(a, flat4) i = Col2Im<strides=[2,2]>(f, image, block) "
        "z = Conv(i, c2)" + HEAD,
        {"c1": (24, 3, 2, 2), "flat4": ints(0, 24, 16), "image": ints(8, 8), "block": ints(2, 2)}
        | {"c2": (4, 6, 1, 1), "head": (5, 4)},
        {"c1": (12, 3, 2, 2), "c2": (2, 3, 1, 1)},
    ),
    "grid sample": Case(
        "a = Conv(x, c1) s = GridSample(a, places) z = Conv(s, c2)" + HEAD,
        {"c1": (6, 3, 1, 1), "places": (2, 4, 4, 2), "c2": (4, 6, 1, 1), "head": (5, 4)},
        {"c1": (3, 3, 1, 1), "places": (2, 4, 4, 2), "c2": (2, 3, 1, 1)},
        "(float[2,3,8,8] x) => (float[2,5] y)",
    ),
    "roi align": Case(
        "a = Conv(x, c1) s = RoiAlign<output_height=2, output_width=2>(a, boxes, image) z = Conv(s, c2)" + HEAD,
        {"c1": (6, 3, 1, 1), "boxes": np.array([[0, 0, 4, 4], [1, 1, 7, 5], [2, 0, 6, 6]], np.float32)}
        | {"image": ints(0, 1, 0), "c2": (4, 6, 1, 1), "head": (5, 4)},
        {"c1": (3, 3, 1, 1), "c2": (2, 3, 1, 1)},
        "(float[2,3,8,8] x) => (float[3,5] y)",
    ),
    "gather_nd from a table": Case(
        "b = GatherND(table, places) h = MatMul(x, l1) s = Mul(b, h) y = MatMul(s, l2)",
        {"table": (7, 12), "places": ints(1, 5, 6, 0).reshape(4, 1), "l1": (6, 12), "l2": (12, 5)},
        {"table": (7, 6), "l1": (6, 6), "l2": (6, 5)},
        TOKENS,
    ),
    "scatter_nd": Case(
        "h = MatMul(x, l1) t = Transpose<perm=[1,0,2]>(h) n = MatMul(x, l3) nt = Transpose<perm=[1,0,2]>(n) "
        "u = Gather(nt, third) s = ScatterND(t, first, u) st = Transpose<perm=[1,0,2]>(s) y = MatMul(st, l2)",
        {"l1": (6, 8), "l3": (6, 8), "third": ints(2), "first": ints(0).reshape(1, 1), "l2": (8, 5)},
        {"l1": (6, 4), "l3": (6, 4), "l2": (4, 5)},
        TOKENS,
    ),
    "cumulative sum of the tokens": Case(
        "h = MatMul(x, l1) c = CumSum(h, one) y = MatMul(c, l2)",
        {"l1": (6, 8), "one": np.int64(1), "l2": (8, 5)},
        {"l1": (6, 4), "l2": (4, 5)},
        TOKENS,
    ),
    "cumulative sum of the channels": Case(
        "h = MatMul(x, l1) c = CumSum(h, two) y = MatMul(c, l2)",
        {"l1": (6, 8), "two": np.int64(2), "l2": (8, 5)},
        {"l1": (6, 8), "l2": (8, 5)},
        TOKENS,
    ),
    "the largest of the tokens": Case(
        "h = MatMul(x, l1) v, i = TopK<axis=1>(h, four) y = MatMul(v, l2)",
        {"l1": (6, 8), "four": ints(4), "l2": (8, 5)},
        {"l1": (6, 4), "l2": (4, 5)},
        TOKENS,
    ),
    "elements by number": Case(
        "h = MatMul(x, l1) g = Sign(h) a = Abs(g) i = Cast<to=7>(a) e = GatherElements<axis=2>(h, i) y = MatMul(e, l2)",
        {"l1": (6, 8), "l2": (8, 5)},
        {"l1": (6, 8), "l2": (8, 5)},
        TOKENS,
    ),
    "einsum of heads": Case(
        """h = MatMul(x, l1) q = Reshape(h, apart) s = Einsum<equation="bihd,bjhd->bhij">(q, q)
           o = Einsum<equation="bhij,bjhd->bihd">(s, q) m = Reshape(o, joined) y = MatMul(m, l2)""",
        {"l1": (6, 12), "apart": ints(0, 0, 4, 3), "joined": ints(0, 0, 12), "l2": (12, 5)},
        {"l1": (6, 6), "l2": (6, 5)},
        TOKENS,
    ),
    "einsum with a weight": Case(
        """h = MatMul(x, l1) y = Einsum<equation="...c,dc->...d">(h, l2)""",
        {"l1": (6, 8), "l2": (5, 8)},
        {"l1": (6, 4), "l2": (5, 4)},
        TOKENS,
    ),
    "heads that are merged with the batch, and all taken": Case(
        """h = MatMul(x, l1) r = Reshape(h, apart) q = Transpose<perm=[0,2,1,3]>(r) m = Reshape(q, merged)
           s = Slice(m, zero, end, zero) g = Softmax<axis=-1>(s) b = Reshape(g, back) t = Transpose<perm=[0,2,1,3]>(b)
           j = Reshape(t, joined) y = MatMul(j, l2)""",
        {"l1": (6, 12), "apart": ints(0, 0, 4, 3), "merged": ints(-1, 4, 3), "zero": ints(0), "end": ints(2**62)}
        | {"back": ints(-1, 4, 4, 3), "joined": ints(0, 0, 12), "l2": (12, 5)},
        {"l1": (6, 6), "l2": (6, 5)},
        TOKENS,
    ),
    "query, key and value of one channel each": Case(
        """h = MatMul(x, l1) c = MatMul(h, qkv) q0 = Slice(c, zero, one, two) k0 = Slice(c, one, two, two)
           v0 = Slice(c, two, three, two) k1 = Transpose<perm=[0,2,1]>(k0) s = MatMul(q0, k1) p = Softmax<axis=-1>(s)
           v1 = Squeeze(v0, two) v = Unsqueeze(v1, two) m = MatMul(p, v) y = MatMul(m, l2)""",
        {"l1": (6, 8), "qkv": (8, 3), "zero": ints(0), "one": ints(1), "two": ints(2), "three": ints(3), "l2": (1, 5)},
        {"l1": (6, 4), "qkv": (4, 3), "l2": (1, 5)},
        TOKENS,
    ),
    "heads that are turned by position": Case(
        """h = MatMul(x, l1) r = Reshape(h, apart) q = Transpose<perm=[0,2,1,3]>(r) c = Mul(q, table)
           even = Slice(q, zero, end, three, two) odd = Slice(q, one, end, three, two) n = Neg(odd)
           n5 = Unsqueeze(n, four) e5 = Unsqueeze(even, four) p = Concat<axis=4>(n5, e5) t = Reshape(p, again)
           s = Mul(t, other) o = Add(c, s) b = Transpose<perm=[0,2,1,3]>(o) m = Reshape(b, joined) y = MatMul(m, l2)""",
        {"l1": (6, 24), "apart": ints(0, 0, 4, 6), "table": (4, 6), "other": (4, 6), "zero": ints(0), "one": ints(1)}
        | {"end": ints(2**31), "three": ints(3), "two": ints(2), "four": ints(4), "again": ints(0, 4, 4, 6)}
        | {"joined": ints(0, 0, 24), "l2": (24, 5)},
        {"l1": (6, 12), "l2": (12, 5), "table": (4, 6)},
        TOKENS,
    ),
    "unit length along the channels": Case(
        "h = MatMul(x, l1) n = LpNormalization<axis=-1, p=2>(h) y = MatMul(n, l2)",
        {"l1": (6, 8), "l2": (8, 5)},
        {"l1": (6, 4), "l2": (4, 5)},
        TOKENS,
    ),
    "layer norm written out": Case(
        """h = MatMul(x, l1) m = ReduceMean(h, last) c = Sub(h, m) s = Pow(c, two) v = ReduceMean(s, last)
           e = Add(v, eps) d = Sqrt(e) n = Div(c, d) g = Mul(n, scale) b = Add(g, shift) y = MatMul(b, l2)""",
        {"l1": (6, 12), "last": ints(-1), "two": np.float32(2), "eps": np.float32(1e-5)}
        | {"scale": (12,), "shift": (12,), "l2": (12, 5)},
        {"l1": (6, 6), "scale": (6,), "shift": (6,), "l2": (6, 5)},
        TOKENS,
    ),
    "global response normalisation": Case(
        """h = MatMul(x, l1) n = ReduceL2(h, tokens) m = ReduceMean(n, last) e = Add(m, tiny) r = Div(n, e)
           g = Mul(h, r) w = Mul(g, scale) b = Add(w, shift) s = Add(h, b) y = MatMul(s, l2)""",
        {"l1": (6, 8), "tokens": ints(1), "last": ints(-1), "tiny": np.float32(1e-6), "scale": (8,), "shift": (8,)}
        | {"l2": (8, 5)},
        {"l1": (6, 4), "scale": (4,), "shift": (4,), "l2": (4, 5)},
        TOKENS,
    ),
    "a mean over the channels that is no statistic": Case(
        "h = MatMul(x, l1) m = ReduceMean(h, last) g = Mul(h, m) y = MatMul(g, l2)",
        {"l1": (6, 12), "last": ints(-1), "l2": (12, 5)},
        {"l1": (6, 12), "l2": (12, 5)},
        TOKENS,
    ),
    "weight standardisation": Case(
        """r = Reshape(c2, rows) m = ReduceMean<keepdims=0>(r, last) mk = ReduceMean(r, last) d = Sub(r, mk)
           dd = Mul(d, d) v = ReduceMean<keepdims=0>(dd, last) n = BatchNormalization(r, gain, zero, m, v)
           w = Reshape(n, kernel) a = Conv(x, c1) ar = Relu(a) z = Conv<pads=[1,1,1,1]>(ar, w)"""
        + HEAD,
        {"c1": (8, 3, 1, 1), "c2": (6, 8, 3, 3), "rows": ints(1, 6, -1), "last": ints(0, 2), "gain": (6,)}
        | {"zero": np.zeros(6, np.float32), "kernel": ints(6, 8, 3, 3), "head": (5, 6)},
        {"c1": (4, 3, 1, 1), "c2": (3, 4, 3, 3), "gain": (3,), "head": (5, 3)},
    ),
    "group norm of one group": Case(
        """a = Conv(x, c1, b1) r = Reshape(a, rows) i = InstanceNormalization(r, one, zero) s = Shape(a)
           n = Reshape(i, s) g = Mul(n, gain) h = Add(g, shift) z = Conv(h, c2)"""
        + HEAD,
        {"c1": (8, 3, 1, 1), "b1": (8,), "rows": ints(0, 1, -1), "one": np.ones(1, np.float32)}
        | {"zero": np.zeros(1, np.float32), "gain": (8, 1, 1), "shift": (8, 1, 1), "c2": (4, 8, 1, 1), "head": (5, 4)},
        {"c1": (4, 3, 1, 1), "gain": (4, 1, 1), "c2": (2, 4, 1, 1)},
    ),
    "group norm of many groups, written out": Case(
        """a = Conv(x, c1) r = Reshape(a, rows) i = InstanceNormalization(r, one, zero) s = Shape(a)
           n = Reshape(i, s) z = Conv(n, c2)"""
        + HEAD,
        {"c1": (16, 3, 1, 1), "rows": ints(0, 8, -1), "one": np.ones(8, np.float32)}
        | {"zero": np.zeros(8, np.float32), "c2": (4, 16, 1, 1), "head": (5, 4)},
        {"c1": (8, 3, 1, 1), "one": (4,), "c2": (2, 8, 1, 1)},
    ),
    "group norm, many groups": Case(
        "a = Conv(x, c1) n = GroupNormalization<num_groups=8>(a, gain, shift) z = Conv(n, c2)" + HEAD,
        {"c1": (16, 3, 1, 1), "gain": (16,), "shift": (16,), "c2": (4, 16, 1, 1), "head": (5, 4)},
        {"c1": (8, 3, 1, 1), "gain": (8,), "c2": (2, 8, 1, 1)},
        opset=21,
    ),
    "group norm, few groups": Case(
        "a = Conv(x, c1) n = GroupNormalization<num_groups=2>(a, gain, shift) z = Conv(n, c2)" + HEAD,
        {"c1": (16, 3, 1, 1), "gain": (16,), "shift": (16,), "c2": (4, 16, 1, 1), "head": (5, 4)},
        {"c1": (8, 3, 1, 1), "gain": (8,), "c2": (2, 8, 1, 1)},
        opset=21,
    ),
    "attention of grouped heads": Case(
        """hq = MatMul(x, wq) hk = MatMul(x, wk) hv = MatMul(x, wv) q0 = Reshape(hq, eight) k0 = Reshape(hk, four)
           v0 = Reshape(hv, four) q = Transpose<perm=[0,2,1,3]>(q0) k = Transpose<perm=[0,2,1,3]>(k0)
           v = Transpose<perm=[0,2,1,3]>(v0) o = Attention(q, k, v, bias) t = Transpose<perm=[0,2,1,3]>(o)
           m = Reshape(t, joined) y = MatMul(m, wo)""",
        {"wq": (6, 24), "wk": (6, 12), "wv": (6, 12), "eight": ints(0, 0, 8, 3), "four": ints(0, 0, 4, 3)}
        | {"bias": (1, 8, 4, 4), "joined": ints(0, 0, 24), "wo": (24, 5)},
        {"wq": (6, 12), "wk": (6, 6), "wv": (6, 6), "bias": (1, 4, 4, 4), "wo": (12, 5)},
        TOKENS,
        opset=23,
    ),
    "attention keeps its scale when its width shrinks": Case(
        """hq = MatMul(x, wq) hk = MatMul(x, wk) hv = MatMul(x, wv) q = Unsqueeze(hq, one) k = Unsqueeze(hk, one)
           v = Unsqueeze(hv, one) o = Attention(q, k, v) m = Squeeze(o, one) y = MatMul(m, wo)""",
        {"wq": (6, 8), "wk": (6, 8), "wv": (6, 12), "one": ints(1), "wo": (12, 5)},
        {"wq": (6, 4), "wk": (6, 4), "wv": (6, 6), "wo": (6, 5)},
        TOKENS,
        opset=23,
    ),
    "attention with joined heads": Case(
        """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
           o = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v) y = MatMul(o, wo)""",
        {"wq": (6, 12), "wk": (6, 6), "wv": (6, 10), "wo": (20, 5)},
        {"wq": (6, 6), "wk": (6, 3), "wv": (6, 5), "wo": (10, 5)},
        TOKENS,
        opset=23,
    ),
}


def model_of(case: Case, make: SimpleNamespace) -> Model:
    model: Model = make.build(case.body, case.weights, case.io)
    model.graph.opset_imports[""] = case.opset
    for node in model.graph.graph:
        node.version = case.opset
    return model


@pytest.mark.parametrize("name", CASES)
def test_pruned_equals_the_masked_original(name: str, make: SimpleNamespace) -> None:
    model = model_of(CASES[name], make)
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    shapes = {weight: array.shape for weight, array in pruned.weights().items()}
    assert {weight: shapes[weight] for weight in CASES[name].after} == CASES[name].after
    assert not plan.trace.unknown
    difference = compare(model, pruned, plan, kept, seed=0)
    assert difference.found == ""
    assert difference.relative < 1e-5


def test_weights_behind_computations_are_known_to_produce_channels(make: SimpleNamespace) -> None:
    """A kernel that is standardised first still is what a criterion ranks its channels by."""
    plan = make.plan_of(model_of(CASES["weight standardisation"], make))
    assert {("c1", 0), ("c2", 0), ("head", 0)} <= plan.trace.produces
    assert ("c2", 1) not in plan.trace.produces
    assert any("head" in names for names in plan.pinned.values())


def test_groups_of_a_norm_follow(make: SimpleNamespace) -> None:
    counts = {}
    for name in ("group norm, many groups", "group norm, few groups"):
        model = model_of(CASES[name], make)
        plan = make.plan_of(model)
        pruned, _ = remove(model, plan, make.half(plan))
        node = next(node for node in pruned.graph.graph if node.op_type == "GroupNormalization")
        counts[name] = node.attributes.get_int("num_groups")
    assert counts == {"group norm, many groups": 4, "group norm, few groups": 2}


@pytest.mark.parametrize(
    ("equation", "ranks", "expected"),
    [
        ("bij,bjk->bik", [3, 3], (["bij", "bjk"], "bik")),
        ("ij,jk", [2, 2], (["ij", "jk"], "ik")),
        ("...i,ji->...j", [3, 2], (["ABi", "ji"], "ABj")),
        ("ii->i", [2], None),
        ("...i,...i->...i", [3, 2], None),
    ],
)
def test_terms_of_an_einsum(equation: str, ranks: list[int], expected: object) -> None:
    assert terms(equation, ranks) == expected


def test_a_recurrent_layer_is_named_and_pins_what_reaches_it(make: SimpleNamespace) -> None:
    model = make.build(
        """h = MatMul(x, l1) t = Transpose<perm=[1,0,2]>(h) o, last = GRU<hidden_size=7>(t, w, r)
           s = Squeeze(o, one) st = Transpose<perm=[1,0,2]>(s) g = MatMul(st, l2) y = MatMul(g, l3)""",
        {"l1": (6, 8), "w": (1, 21, 8), "r": (1, 21, 7), "one": ints(1), "l2": (7, 10), "l3": (10, 5)},
        TOKENS,
    )
    plan = make.plan_of(model)
    assert set(plan.trace.unknown.values()) == {"GRU"}
    assert any("GRU" in reason and "l1" in names for reason, names in plan.pinned.items())
    pruned, record = remove(model, plan, make.half(plan))
    assert {(entry["name"], entry["axis"]) for entry in record} == {("l2", 1), ("l3", 0)}
    assert ir.to_proto(pruned.graph) is not None


def test_no_label_of_a_rule_is_left_out_of_the_registry() -> None:
    """What a rule module exports is used, or it is dead."""
    from edgeopt.prune.rules import RULES, attention, contract, einsum, indexing, movement, normalize, spatial

    used = set(RULES.values())
    helpers = {"slice_bounds", "whole_groups", "terms"}
    for module in (attention, contract, einsum, indexing, movement, normalize, spatial):
        assert {getattr(module, name) for name in module.__all__ if name not in helpers} <= used
