"""A MobileNetV3-style network under 100 KB of flash: how many frames a second are two common boards to make?

    python benchmarks/mcu_network.py

Searching for MobileNetV3 (arXiv 1905.02244), section 5, made small: inverted residuals with squeeze-excite, HardSwish
in the later half, 96x96 colour images. Weights are random: speed and size do not depend on them, and outputs that
differ from onnxruntime's would show as well. The STM32H743 runs at 480 MHz, the STM32L4R5 (Cortex-M4) at 120 MHz.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from torch import Tensor, nn

__all__ = ["DEVICES", "SmallV3", "figures", "small_v3"]

SIZE = 96
CLASSES = 10
STEM = 16
HEAD = 96
# kernel, expanded channels, output channels, squeeze-excite, HardSwish, stride
BLOCKS = (
    (3, 16, 16, True, False, 2),
    (3, 48, 24, False, False, 2),
    (3, 64, 24, False, False, 1),
    (5, 72, 32, True, True, 2),
    (5, 96, 32, True, True, 1),
    (5, 96, 40, True, True, 1),
    (5, 72, 40, True, True, 1),
)
DEVICES = ("stm32h743", "stm32l4r5")
SAMPLES = 4


def conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside))


class SqueezeExcite(nn.Module):
    """Each channel times a number between 0 and 1 that depends on the means of all of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, channels // 4 // 8 * 8)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """1x1 up, depthwise, squeeze-excite, 1x1 down; added to its input where the shapes are the same."""

    def __init__(
        self, inside: int, kernel: int, expanded: int, outside: int, excite: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if swish else nn.ReLU
        layers: list[nn.Module] = [conv(inside, expanded, 1), activation()] if expanded != inside else []
        layers += [conv(expanded, expanded, kernel, stride, expanded), activation()]
        layers += [SqueezeExcite(expanded)] if excite else []
        self.body = nn.Sequential(*layers, conv(expanded, outside, 1))
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class SmallV3(nn.Module):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__()
        widths = [STEM, *(block[2] for block in BLOCKS)]
        self.stem = nn.Sequential(conv(3, STEM, 3, 2), nn.Hardswish())
        self.blocks = nn.Sequential(*(InvertedResidual(w, *block) for w, block in zip(widths, BLOCKS, strict=False)))
        self.head = nn.Sequential(conv(widths[-1], HEAD, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(HEAD, CLASSES)
        self.input_shape = (3, SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(x))))
        return logits


def small_v3() -> SmallV3:
    """Seeded random weights, and BatchNormalization statistics of noise."""
    import torch

    torch.manual_seed(0)
    network = SmallV3()
    with torch.no_grad():
        for _ in range(8):
            network(torch.randn(16, 3, SIZE, SIZE))
    return network.eval()


def artifact() -> object:
    """The network as the mcu tier's artifact: a Model."""
    import torch

    from edgeopt.data.arrays import ArraySource
    from edgeopt.data.data import Data, Split
    from edgeopt.export import make_artifact
    from edgeopt.model.export import export_module
    from edgeopt.quantize.stage import Quantize
    from edgeopt.stage import Context
    from edgeopt.tiers import load_tier

    x = np.random.default_rng(0).standard_normal((32, 3, SIZE, SIZE)).astype(np.float32)
    split = Split(ArraySource(x), np.arange(len(x)), None, None)
    tier = load_tier("mcu").model_copy(update={"max_bytes": None})
    context = Context(data=Data("noise", split, split, split, (), None, "noise"), tier=tier)
    model = export_module(small_v3(), torch.zeros(2, 3, SIZE, SIZE))
    return make_artifact(Quantize(samples=len(x)).apply(model, context).model, tier)


def figures(model: object) -> list[dict[str, object]]:
    """One entry a device: size, instructions, mismatches and the frame rate with its band."""
    from edgeopt.mcu import compile_model
    from edgeopt.mcu.estimate import from_instructions, from_runtimes, work_of
    from edgeopt.mcu.reference import Reference
    from edgeopt.mcu.verify import verify
    from edgeopt.tiers import load_device

    compiled = compile_model(model)
    reference = Reference(model, compiled.program)
    inputs = reference.noise(SAMPLES)
    expected = reference.run(inputs)
    found = []
    for name in DEVICES:
        device = load_device(name)
        own = verify(compiled, inputs, expected, device.target)
        rate, others = from_instructions(own.instructions, device), from_runtimes(work_of(compiled.program), device)
        found.append(
            {
                "device": device.description,
                "macs": compiled.program.macs,
                "instructions": round(own.instructions),
                "instructions_per_mac": round(own.instructions_per_mac, 3),
                "mismatches": own.mismatches,
                "flash_bytes": own.flash_bytes,
                "ram_bytes": own.ram_bytes,
                "frames_per_second": [round(value, 1) for value in (rate.low, rate.middle, rate.high)],
                "published_runtimes": others
                and [round(value, 1) for value in (others.low, others.middle, others.high)],
            }
        )
    return found


def main() -> None:
    from edgeopt.model.load import save_model

    model = artifact()
    folder = Path("out/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder / "small_v3.onnx")
    print(json.dumps(figures(model), indent=2))


if __name__ == "__main__":
    main()
