"""Presets: how much work quantization is worth, in one word. They fill in what `Quantize` was not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["DEFAULT", "PRESETS", "Preset", "PresetName", "fill_preset"]

PresetName = Literal["fast", "balanced", "best"]
DEFAULT: PresetName = "balanced"

CLIPPING = 4.0
"""Samples are few: an image beyond their range must not lose more than the others gain."""
RANGES = {"kind": "mse_by_image", "clipping": CLIPPING}
RIVALS = [{"kind": "mse", "clipping": CLIPPING}, {"kind": "minmax"}]
"""For the loudest images: where they are most of all there is, the samples held back may say so."""


@dataclass(frozen=True)
class Preset:
    """Fields of `Quantize` as a recipe would give them, and a line that says what they cost."""

    description: str
    settings: Mapping[str, Any] = field(default_factory=dict)


PRESETS: Mapping[PresetName, Preset] = {
    "fast": Preset(
        "one pass over the samples: ranges and weight scales by least squared error (mobilenet_v2, 256 images: 4 s)",
        {"calibrator": RANGES, "rivals": [], "weight_scale": {"kind": "mse"}, "transforms": [], "refinements": []},
    ),
    "balanced": Preset(
        "fast, and uneven channels evened out, biases and weight scales corrected on up to 64 images (8 s)",
        {
            "calibrator": RANGES,
            "rivals": RIVALS,
            "weight_scale": {"kind": "mse"},
            "transforms": [{"kind": "cross_layer"}, {"kind": "smooth_quant"}],
            "refinements": [{"kind": "bias_correction"}],
        },
    ),
    "best": Preset(
        "balanced, with weights and biases fitted layer by layer to what quantized inputs need (minutes)",
        {
            "calibrator": RANGES,
            "rivals": RIVALS,
            "weight_scale": {"kind": "mse"},
            "transforms": [{"kind": "cross_layer"}, {"kind": "smooth_quant"}],
            "refinements": [{"kind": "reconstruct"}],
        },
    ),
}


def fill_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what their `preset` ("balanced" unless given) sets and they do not; given fields win whole.

    A calibrator that was given has no rivals unless they were given too. An unknown preset is left for validation to
    refuse.
    """
    name = settings.get("preset", DEFAULT)
    chosen = PRESETS[name].settings if name in get_args(PresetName) else {}
    rivals: dict[str, Any] = {"rivals": []} if "calibrator" in settings else {}
    return {**chosen, **rivals, **settings}
