import numpy as np
import pytest
import torch

from edgeopt.distill import Hint
from edgeopt.distill.answers import Pair
from edgeopt.distill.layers import find_pairs, name_pairs, show
from edgeopt.distill.losses import AttentionTransfer
from edgeopt.errors import UsageError
from edgeopt.model.runtime import open_session, run
from edgeopt.model.to_torch import from_torch, to_torch


def test_the_last_activation_at_each_resolution_is_paired(deep):
    """`c` is later than `b_r` and as large, but linear."""
    found = find_pairs(deep(2), deep(3))
    assert [(pair.student, pair.teacher, pair.resolution) for pair in found] == [
        ("a_r", "a_r", (6, 6)),
        ("b_r", "b_r", (3, 3)),
    ]
    assert found[1].student_shape == (1, 4, 3, 3)
    assert found[1].teacher_shape == (1, 6, 3, 3)


def test_networks_with_nothing_in_common_say_what_they_have(deep, classifier):
    with pytest.raises(UsageError, match=r"the student: 6 x 6, 3 x 3; the teacher: 2 x 2"):
        find_pairs(deep(), classifier())


def test_users_name_pairs(deep):
    (pair,) = name_pairs(deep(2), deep(3), {"flat": "c"})
    assert pair == Pair("flat", "c", (1, 36), (1, 6, 3, 3))
    with pytest.raises(UsageError, match=r"the teacher has no tensor 'b_rr'.*b_r"):
        name_pairs(deep(2), deep(3), {"b_r": "b_rr"})


def test_tensors_of_other_sizes_are_refused_where_they_cannot_be_compared(deep):
    (pair,) = name_pairs(deep(2), deep(3), {"a_r": "b_r"})
    for loss in (Hint(), AttentionTransfer()):
        with pytest.raises(UsageError, match=r"a_r is \[1, 2, 6, 6\], b_r is \[1, 6, 3, 3\]"):
            loss.check(pair)


def test_shown_tensors_come_out_of_the_same_pass(deep):
    model = deep()
    shown, places = show(model, ["b_r", "output", "a_r"])
    assert places == {"output": 0, "b_r": 1, "a_r": 2}
    assert len(model.outputs) == 1
    x = np.random.default_rng(0).standard_normal((3, 1, 6, 6)).astype(np.float32)
    module = to_torch(shown)
    for found, expected in zip(module(torch.from_numpy(x)), run(open_session(shown, threads=1), x), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert from_torch(module, model).fingerprint() == model.fingerprint()
