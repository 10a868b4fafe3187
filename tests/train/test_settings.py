import subprocess
import sys

import pytest
from pydantic import ValidationError

from edgeopt.train import Augment, Fit, Train


def test_settings_are_read_without_torch():
    code = (
        "import sys; from edgeopt.train import Fit, Train; from edgeopt.distill import Distill; "
        "Train.model_validate({'fit': {'epochs': 2}}); Distill.model_validate({'teacher': 'x.onnx'}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_recipe_entry_survives_json():
    entry = {
        "kind": "train",
        "fit": {
            "optimizer": {"kind": "adamw", "betas": [0.9, 0.95]},
            "schedule": {"kind": "cosine", "warmup": 0.1},
            "augment": {"flip": True, "crop_pad": 4},
        },
    }
    stage = Train.model_validate(entry)
    assert Train.model_validate_json(stage.model_dump_json()) == stage
    assert stage.fit.optimizer.kind == "adamw"


def test_rate_and_decay_follow_the_optimizer_unless_given():
    sgd, adamw = Fit(), Fit.model_validate({"optimizer": {"kind": "adamw"}})
    assert sgd.peak_lr > 10 * adamw.peak_lr
    assert adamw.decay > sgd.decay
    assert Fit(lr=0.3, weight_decay=0.0).peak_lr == 0.3
    assert Fit(lr=0.3, weight_decay=0.0).decay == 0.0


def test_descriptions_quote_the_optimizers_defaults():
    described = Fit.model_fields["lr"].description or ""
    for optimizer in ("sgd", "adamw"):
        lr = Fit.model_validate({"optimizer": {"kind": optimizer}}).peak_lr
        assert f"{lr:g} for {optimizer}" in described


@pytest.mark.parametrize(
    "entry",
    [{"epoch": 3}, {"epochs": 0}, {"lr": 0}, {"optimizer": {"kind": "lion"}}, {"augment": {"zoom": 1.5}}],
)
def test_nonsense_is_refused(entry):
    with pytest.raises(ValidationError):
        Fit.model_validate(entry)


def test_every_setting_is_described():
    for spec in (Fit, Augment):
        for name, field in spec.model_fields.items():
            assert field.description, f"{spec.__name__}.{name}"
