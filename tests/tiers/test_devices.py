"""Devices: what is in their files, and that estimates from them meet latencies that others measured on real boards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeopt.errors import UsageError
from edgeopt.mcu.build import CORES
from edgeopt.mcu.estimate import Work, cycles_of, from_instructions, from_runtimes
from edgeopt.tiers import Device, list_devices, load_device

IMAGENET, FLOWERS = 1000, 5


def conv(side: int, inside: int, outside: int, kernel: int = 1) -> int:
    """MACs of a convolution that makes a square image of this side."""
    return side * side * inside * outside * kernel * kernel


def head(inside: int, classes: int) -> Work:
    return Work(large_dense=inside * classes) if classes >= 1000 else Work(dense=inside * classes)


def total(parts: Sequence[Work]) -> Work:
    return Work(*(sum(getattr(part, kind) for part in parts) for kind in Work.__dataclass_fields__))


def macs(work: Work) -> int:
    return work.conv + work.depthwise + work.dense + work.large_dense


def resnet(blocks: int, classes: int = 10) -> Work:
    """He et al. for CIFAR: stages of 16, 32, 64 channels at 32, 16, 8 pixels; 1x1 shortcuts where the width changes."""
    count, inside = conv(32, 3, 16, 3), 16
    for stage, width in enumerate((16, 32, 64)):
        side = 32 >> stage
        count += conv(side, inside, width) if inside != width else 0
        count += conv(side, inside, width, 3) + (2 * blocks - 1) * conv(side, width, width, 3)
        inside = width
    return total([Work(conv=count), head(64, classes)])


def mobilenet_v1(alpha: float, side: int, classes: int) -> Work:
    """Howard et al. 2017, table 1."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    side, inside = side // 2, round(32 * alpha)
    parts = [Work(conv=conv(side, 3, inside, 3))]
    for width, stride in plan:
        side, outside = -(-side // stride), round(width * alpha)
        parts.append(Work(conv=conv(side, inside, outside), depthwise=conv(side, inside, 1, 3)))
        inside = outside
    return total([*parts, head(inside, classes)])


def mobilenet_v2(alpha: float, side: int, classes: int) -> Work:
    """Sandler et al. 2018, table 2; channels are rounded to multiples of 8, by at most a tenth downwards."""

    def width(channels: int) -> int:
        nearest = max(8, int(channels * alpha + 4) // 8 * 8)
        return nearest + 8 if nearest < 0.9 * channels * alpha else nearest

    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    side, inside = side // 2, width(32)
    parts = [Work(conv=conv(side, 3, inside, 3))]
    for expand, channels, count, first in rows:
        for number in range(count):
            made, middle = -(-side // (first if not number else 1)), inside * expand
            up = conv(side, inside, middle) if expand > 1 else 0
            parts.append(Work(conv=up + conv(made, middle, width(channels)), depthwise=conv(made, middle, 1, 3)))
            side, inside = made, width(channels)
    last = max(1280, int(1280 * alpha))
    return total([*parts, Work(conv=conv(side, inside, last)), head(last, classes)])


KWS = Work(conv=25 * 5 * (40 * 64 + 4 * 64 * 64), depthwise=25 * 5 * 4 * 64 * 9, dense=64 * 12)
TINY = {"kws": KWS, "vww": mobilenet_v1(0.25, 96, 2), "ic": resnet(1), "ad": Work(dense=264_192)}

ZOO = {
    "resnet8": (resnet(1), 28.67),
    "resnet32": (resnet(5), 177.7),
    "mobilenet_v1_0.25_96": (mobilenet_v1(0.25, 96, FLOWERS), 29.94),
    "mobilenet_v1_0.25_224": (mobilenet_v1(0.25, 224, FLOWERS), 163.78),
    "mobilenet_v1_0.5_224_imagenet": (mobilenet_v1(0.5, 224, IMAGENET), 485.79),
    "mobilenet_v1_1.0_224_imagenet": (mobilenet_v1(1.0, 224, IMAGENET), 1641.84),
    "mobilenet_v2_0.35_128": (mobilenet_v2(0.35, 128, FLOWERS), 94.34),
    "mobilenet_v2_0.35_224": (mobilenet_v2(0.35, 224, FLOWERS), 290.75),
    "mobilenet_v2_0.35_128_imagenet": (mobilenet_v2(0.35, 128, IMAGENET), 116.13),
    "mobilenet_v2_0.35_224_imagenet": (mobilenet_v2(0.35, 224, IMAGENET), 313.92),
    "mobilenet_v2_1.0_224_imagenet": (mobilenet_v2(1.0, 224, IMAGENET), 1106.64),
    "mobilenet_v2_1.4_224_imagenet": (mobilenet_v2(1.4, 224, IMAGENET), 2010.66),
}
"""STM32 model zoo, int8 on the Cortex-M7 of an STM32H747I-DISCO at 400 MHz, STM32Cube.AI 10.0: work and ms."""

MLPERF = {
    ("stm32l4r5", "ST X-CUBE-AI 9.0", 120): (43.2, 88.9, 165.1, 5.26),
    ("stm32u575", "ST X-CUBE-AI 9.0", 160): (29.1, 59.3, 111.1, 3.43),
    ("stm32f746", "Bosch HALE", 216): (19.0, 57.2, 62.6, 1.71),
    ("stm32h7a3", "Bosch HALE", 280): (14.7, 43.8, 45.8, 1.36),
    ("ra8d1", "TFLM with CMSIS-NN", 480): (3.47, 13.4, 8.48, 0.53),
}
"""MLPerf Tiny v1.2, closed division: device, runtime and MHz -> milliseconds of kws, vww, ic and ad."""


def test_the_networks_counted_here_are_those_that_were_published() -> None:
    assert [macs(TINY[name]) for name in ("kws", "vww", "ic", "ad")] == [2_656_768, 7_489_664, 12_501_632, 264_192]
    published = {
        "mobilenet_v1_1.0_224_imagenet": 568.7e6,
        "mobilenet_v2_0.35_128": 18.9e6,
        "mobilenet_v2_1.0_224_imagenet": 300.8e6,
        "mobilenet_v2_1.4_224_imagenet": 582.2e6,
    }
    for name, count in published.items():
        assert macs(ZOO[name][0]) == pytest.approx(count, rel=0.003)


@pytest.mark.parametrize("name", ZOO)
def test_the_h747_predicts_each_network_of_the_model_zoo_within_12_percent(name: str) -> None:
    work, milliseconds = ZOO[name]
    predicted = cycles_of(work, load_device("stm32h747").runtimes[0]) / 400e3
    assert predicted == pytest.approx(milliseconds, rel=0.12)


@pytest.mark.parametrize(("entry", "measured"), MLPERF.items(), ids=lambda value: str(value[0]))
def test_a_devices_first_runtime_predicts_its_own_mlperf_rows_within_25_percent(
    entry: tuple[str, str, int], measured: tuple[float, ...]
) -> None:
    name, runtime, clock = entry
    device = load_device(name)
    assert device.runtimes[0].name.startswith(runtime)
    assert device.clock_mhz == clock
    for work, milliseconds in zip(TINY.values(), measured, strict=True):
        rate = from_runtimes(work, device)
        assert rate is not None
        assert 1000 / rate.middle == pytest.approx(milliseconds, rel=0.25)


def test_the_band_from_instructions_holds_what_the_counted_runtime_takes_on_the_board() -> None:
    """CMSIS-NN's ResNet8 is 2.39 instructions per MAC; ONNC and microTVM take 298.7 and 389.6 ms for it on the L4R5."""
    rate = from_instructions(2.39 * 12_501_632, load_device("stm32l4r5"))
    assert 1000 / rate.high == pytest.approx(298.7, rel=0.01)
    assert 1000 / rate.low == pytest.approx(389.6, rel=0.01)


@pytest.mark.parametrize("name", list_devices())
def test_every_device_that_ships_is_complete(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.target in CORES
    assert device.core.startswith("cortex-m")
    assert set(device.confidence) == {"flash", "ram", "clock"}
    assert all(runtime.source.startswith("http") for runtime in device.runtimes)
    assert 32_768 <= device.ram_bytes < device.flash_bytes
    rate = from_instructions(1e6, device)
    assert rate.low < rate.middle < rate.high


def test_a_larger_clock_is_proportionally_faster_and_the_band_stays() -> None:
    slow = load_device("stm32h743")
    fast = slow.model_copy(update={"clock_mhz": 2 * slow.clock_mhz})
    one, two = (from_runtimes(KWS, device) for device in (slow, fast))
    assert one is not None
    assert two is not None
    assert (two.low, two.middle, two.high) == pytest.approx((2 * one.low, 2 * one.middle, 2 * one.high))


def test_a_network_without_macs_has_no_rate_from_published_cycles() -> None:
    assert from_runtimes(Work(), load_device("ra8d1")) is None


def own(folder: Path, **changes: object) -> Path:
    import yaml

    content = load_device("nrf52840").model_dump(mode="json", exclude={"name"}) | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_device_of_ones_own_is_one_more_file(tmp_path: Path) -> None:
    device = load_device(str(own(tmp_path, clock_mhz=32, flash_bytes="256KiB")))
    assert isinstance(device, Device)
    assert (device.name, device.clock_mhz, device.flash_bytes) == ("mine", 32, 262_144)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clock_mhz": 0}, "clock_mhz"),
        ({"ram": "64KiB"}, "ram"),
        ({"flash_bytes": "lots"}, "flash_bytes"),
        ({"runtimes": []}, "runtimes"),
        ({"cycles_per_instruction": {"low": 2, "high": 1, "basis": ""}}, "low 2.0 is above high 1.0"),
    ],
)
def test_a_mistake_in_a_device_is_named_with_file_and_key(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=rf"mine\.yaml: .*{says}|mine\.yaml.*{says}"):
        load_device(str(own(tmp_path, **changes)))


def test_an_unknown_device_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stm32h743"):
        load_device("stm32h999")
    with pytest.raises(UsageError, match="cannot be read"):
        load_device(str(tmp_path / "none.yaml"))
