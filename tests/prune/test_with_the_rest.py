"""Prune, quantize, export: the artifact of each tier answers as the pruned network does in torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeopt.data.data import Data
from edgeopt.model.load import read_onnx
from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.recipe import load_recipe

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
RECIPE = f"""\
model: {ROOT / "models/digits/student.onnx"}
data: digits
stages:
  - {{kind: prune, target: {{macs: -30%}}, finetune: {{epochs: 3, batch_size: 64}}}}
  - {{kind: quantize, preset: fast}}
tiers: [mcu, gpu]
"""


def digits(model: Model) -> Data:
    from edgeopt.data import load_data
    from edgeopt.data.spec import DataSpec

    return load_data(DataSpec(source="digits"), model=model, seed=0)


@pytest.mark.slow
def test_artifacts_of_a_pruned_network_answer_as_it_does_in_torch(tmp_path: Path) -> None:
    from edgeopt.model.to_torch import to_torch
    from edgeopt.pipeline import run as run_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    out = tmp_path / "out"
    run_recipe(load_recipe(path), out)
    pruned = read_onnx(next((out / "stages").glob("01-prune-*/model.onnx")))
    original = read_onnx(ROOT / "models/digits/student.onnx")
    for entry in json.loads((out / "pruned.json").read_text()):
        assert pruned.weights()[entry["name"]].shape[entry["axis"]] == len(entry["kept"])
        assert max(entry["kept"]) < original.weights()[entry["name"]].shape[entry["axis"]]

    x = next(iter(digits(pruned).test.batches(360))).x
    with torch.no_grad():
        wanted = to_torch(pruned)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(open_session(pruned), x)[0], wanted, rtol=1e-3, atol=1e-4)
    for tier, agreement, error in (("gpu", 1.0, 0.01), ("mcu", 0.98, 0.15)):
        session = open_session(out / tier / "model.onnx")
        info = session.get_inputs()[0]
        kind = np.float16 if "float16" in info.type else np.float32
        size = info.shape[0] if isinstance(info.shape[0], int) else len(x)
        found = np.concatenate([run(session, x[i : i + size].astype(kind))[0] for i in range(0, len(x), size)])
        found = found.astype(np.float32)
        assert (found.argmax(1) == wanted.argmax(1)).mean() >= agreement - 1e-9
        assert np.abs(found - wanted).mean() <= error * np.abs(wanted).mean()
