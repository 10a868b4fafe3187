"""Whose word counts on preprocessing, and what is said about it."""

import pytest

from edgeopt.data import DataSpec, load_data
from edgeopt.data.resolve import assume_preprocess, differing_fields
from edgeopt.errors import UsageError
from edgeopt.model import Meta, Preprocess

SMALL = Preprocess(size=(4, 4))


def load(folder, model=None, preprocess=None, **others):
    return load_data(DataSpec(source=str(folder), preprocess=preprocess), model=model, **others)


@pytest.fixture
def folder(make_folder):
    return make_folder({"cat": 6, "dog": 6})


def test_the_models_preprocessing_is_used_in_silence(folder, make_model, progress):
    stated = Preprocess(size=(4, 4), mean=(0.5,), std=(0.5,))
    data = load(folder, make_model(meta=Meta(preprocess=stated)), progress=progress)
    assert data.preprocess == stated
    assert progress.warnings == []


def test_what_is_declared_wins_and_the_differing_fields_are_named_once(folder, make_model, progress):
    model = make_model(meta=Meta(preprocess=Preprocess(size=(4, 4), resize=5, mean=(0.5,))))
    data = load(folder, model, Preprocess(size=(4, 4), mean=(0.25,)), progress=progress)
    assert data.preprocess.mean == (0.25,)
    (warning,) = progress.warnings
    assert "resize, mean" in warning


def test_declaring_the_same_in_other_words_is_no_difference():
    one = Preprocess(size=(4, 4), mean=(0.5,), scale=1 / 255)
    other = Preprocess(size=(4, 4), mean=(0.5, 0.5, 0.5), scale=0.00392156862745098)
    assert differing_fields(one, other) == []
    assert differing_fields(one, Preprocess(size=(4, 4), mean=(0.5, 0.5, 0.6))) == ["mean"]


def test_a_guess_is_warned_about(folder, make_model, progress):
    data = load(folder, make_model(), progress=progress)
    assert data.preprocess == SMALL
    (warning,) = progress.warnings
    assert "assumed size [4, 4]" in warning


@pytest.mark.parametrize(
    ("shape", "size", "color", "layout", "mean"),
    [
        ("3,32,40", (32, 40), "rgb", "NCHW", (0.0,)),
        ("32,40,3", (32, 40), "rgb", "NHWC", (0.0,)),
        ("1,96,96", (96, 96), "gray", "NCHW", (0.0,)),
        ("3,224,224", (224, 224), "rgb", "NCHW", (0.485, 0.456, 0.406)),
    ],
)
def test_what_is_read_off_an_input_shape(make_model, shape, size, color, layout, mean):
    guess = assume_preprocess(make_model(shape))
    assert (guess.size, guess.color, guess.layout, guess.mean) == (size, color, layout, mean)
    assert guess.scale == 1 / 255
    assert guess.resize == (256 if size == (224, 224) else None)


@pytest.mark.parametrize(("shape", "found"), [("7", "look like images"), ("3,h,w", "leaves the image size open")])
def test_an_input_that_says_too_little(folder, make_model, shape, found):
    with pytest.raises(UsageError, match=found):
        load(folder, make_model(shape))


def test_nobody_says_anything(folder):
    with pytest.raises(UsageError, match="nothing says what size"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"mean": (0.1, 0.2)}, "mean has 2 values"),
        ({"std": (0.5, 0.0, 0.5)}, "must not be 0"),
        ({"std": (float("nan"),)}, "finite"),
        ({"scale": 0.0}, "must not be 0"),
        ({"resize": 3}, "smaller than the crop"),
        ({"size": (0, 4)}, "not a height and a width"),
    ],
)
def test_contradictions_are_refused(folder, changes, found):
    with pytest.raises(UsageError, match=found):
        load(folder, preprocess=SMALL.model_copy(update=changes))


def test_digits_follow_the_models_layout_and_say_when_the_scale_is_not_theirs(make_model, progress):
    assert load("digits", make_model("8,8,1", 10), progress=progress).preprocess.layout == "NHWC"
    assert progress.warnings == []
    load("digits", preprocess=Preprocess(size=(8, 8), color="gray"), progress=progress)
    assert "scale 0.0625" in progress.warnings[0]
