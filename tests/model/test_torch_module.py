import pickle
from copy import deepcopy

import pytest
import torch
from quarters import make_classifier

from edgeopt.model.to_torch import from_torch, to_torch
from edgeopt.model.torch_module import OnnxModule


@pytest.mark.parametrize(
    "again", [lambda module: pickle.loads(pickle.dumps(module)), deepcopy], ids=["pickled", "copied"]
)
def test_a_module_survives_with_its_tensors_and_its_mode(again):
    """In training mode, changed since it was made, partly frozen: the copy is the same and apart from it."""
    model = make_classifier()
    module = to_torch(model).train()
    x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    module(x)
    next(module.parameters()).requires_grad_(False)
    other = again(module)
    assert isinstance(other, OnnxModule)
    assert other.training
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in module.parameters()]
    assert torch.equal(module(x), other(x))
    assert torch.equal(module.state_dict()["bn_m"], other.state_dict()["bn_m"])
    assert from_torch(other, model).fingerprint() == from_torch(module, model).fingerprint() != model.fingerprint()
    with torch.no_grad():
        other.state_dict()["fc_w"].zero_()
    assert module.state_dict()["fc_w"].any()
    assert again(other)(x).shape == (8, 4)
