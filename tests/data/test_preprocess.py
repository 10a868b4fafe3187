"""Preprocessing agrees with torchvision, to the bit where it is integers."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeopt.data import normalize
from edgeopt.data.preprocess import fit_image
from edgeopt.model import Preprocess


def picture(height, width, mode="RGB"):
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 90), st.integers(3, 90), st.integers(1, 24), st.integers(1, 24), st.integers(0, 20))
def test_resize_and_crop_are_torchvisions(height, width, crop_height, crop_width, extra):
    from torchvision.transforms import CenterCrop, Compose, Resize

    resize = max(crop_height, crop_width) + extra
    image = picture(height, width)
    expected = Compose([Resize(resize), CenterCrop((crop_height, crop_width))])(image)
    got = fit_image(image, Preprocess(size=(crop_height, crop_width), resize=resize))
    assert np.array_equal(got, np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (17, 9), (12, 12)])
def test_without_crop_it_is_torchvisions_resize_to_a_size(height, width):
    from torchvision.transforms import Resize

    image = picture(height, width)
    expected = np.asarray(Resize((12, 20))(image))
    assert np.array_equal(fit_image(image, Preprocess(size=(12, 20))), expected)


@pytest.mark.parametrize("color", ["rgb", "gray"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_normalize_is_torchvisions(color, layout):
    from torchvision.transforms import Normalize, ToTensor

    channels = 1 if color == "gray" else 3
    mean, std = (0.1, 0.2, 0.3)[:channels], (0.5, 0.6, 0.7)[:channels]
    preprocess = Preprocess(size=(5, 6), color=color, mean=mean, std=std, layout=layout)
    raw = np.random.default_rng(0).integers(0, 256, (4, 5, 6, channels), np.uint8)
    got = normalize(raw, preprocess)
    expected = np.stack([Normalize(mean, std)(ToTensor()(image)).numpy() for image in raw])
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert np.abs((got if layout == "NCHW" else got.transpose(0, 3, 1, 2)) - expected).max() < 2e-6


def test_one_mean_serves_all_channels():
    raw = np.full((1, 2, 2, 3), 51, np.uint8)
    got = normalize(raw, Preprocess(size=(2, 2), mean=(0.1,), std=(0.5,)))
    assert got.shape == (1, 3, 2, 2)
    assert np.allclose(got, (0.2 - 0.1) / 0.5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_every_usual_colour_mode_comes_in(mode, color):
    image = picture(8, 8, mode)
    got = fit_image(image, Preprocess(size=(8, 8), color=color))
    assert np.array_equal(got.squeeze(), np.asarray(image.convert("RGB" if color == "rgb" else "L")))


def test_transparency_in_a_palette_warns_nobody():
    image = picture(8, 8, "P")
    image.info["transparency"] = bytes(range(256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = fit_image(image, Preprocess(size=(8, 8)))
    assert np.array_equal(got, np.asarray(image.convert("RGBA"))[..., :3])


def test_sixteen_bit_gray_is_scaled_not_clipped():
    deep = np.array([[0, 256, 32768, 65535]], np.uint16)
    got = fit_image(Image.fromarray(deep), Preprocess(size=(1, 4), color="gray"))
    assert got[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_pixels_are_refused():
    with pytest.raises(ValueError, match="no agreed range"):
        fit_image(Image.fromarray(np.zeros((2, 2), np.float32)), Preprocess(size=(2, 2)))
