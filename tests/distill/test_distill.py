import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from pydantic import ValidationError

from edgeopt.data import normalize
from edgeopt.distill import Distill, SoftTargets
from edgeopt.distill.stage import check_pair
from edgeopt.distill.teacher import Teacher, Teachers
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess
from edgeopt.model.load import read_onnx, save_model
from edgeopt.model.runtime import open_session, run
from edgeopt.progress import Progress
from edgeopt.stage import Context
from edgeopt.train import Fit, Train, precision
from edgeopt.train.optimizers import AdamW

FIT = Fit(epochs=15, batch_size=32)


@pytest.fixture
def teacher(data, classifier):
    """A trained network of width 8."""
    return Train(fit=FIT).apply(classifier(width=8), Context(data=data, seed=0)).model


@pytest.fixture
def unlabelled(data):
    return replace(data, train=replace(data.train, labels=None), labels=())


def answers(model, split):
    return run(open_session(model, threads=1), split.read(np.arange(len(split))).x)[0].argmax(1)


def test_a_student_learns_the_labels_and_its_teacher(data, classifier, teacher, tmp_path):
    save_model(teacher, tmp_path / "teacher.onnx")
    student = classifier(width=3, seed=1)
    before = student.fingerprint()
    stage = Distill.model_validate({"teacher": str(tmp_path / "teacher.onnx"), "fit": FIT})
    result = stage.apply(student, Context(data=data, seed=0))
    assert student.fingerprint() == before
    assert (answers(result.model, data.test) == data.test.labels).mean() > 0.9
    assert result.facts["student_params"] == 3 * 9 + 6 + 48 + 4
    assert result.facts["teacher_params"] == 8 * 9 + 16 + 128 + 4
    assert result.facts["labels"] is True
    assert json.loads(json.dumps(result.facts)) == result.facts
    assert result.model.meta.preprocess == data.preprocess


def test_either_model_may_be_the_one_that_comes_in(data, classifier, teacher, tmp_path):
    save_model(teacher, tmp_path / "teacher.onnx")
    save_model(classifier(width=3, seed=1), tmp_path / "student.onnx")
    teacher, student = (read_onnx(tmp_path / f"{name}.onnx") for name in ("teacher", "student"))
    context = Context(data=data, seed=0)
    fit = Fit(epochs=2, batch_size=32)
    one = Distill.model_validate({"teacher": str(tmp_path / "teacher.onnx"), "fit": fit}).apply(student, context)
    before = teacher.fingerprint()
    other = Distill.model_validate({"student": str(tmp_path / "student.onnx"), "fit": fit}).apply(teacher, context)
    assert one.model.fingerprint() == other.model.fingerprint()
    assert teacher.fingerprint() == before


def test_without_labels_the_student_mimics_the_teacher(unlabelled, data, classifier, teacher, distill):
    """The labels are gone, and this teacher has two classes the wrong way round: so has its student."""
    swapped = teacher.copy()
    for name in ("fc_w", "fc_b"):
        array = teacher.weights()[name][[1, 0, 2, 3]]
        swapped.graph.graph.initializers[name].const_value = ir.tensor(array, name=name)
    result = distill(classifier(width=4, seed=1), swapped, unlabelled)
    found = answers(result.model, data.test)
    assert (found == np.array([1, 0, 2, 3])[data.test.labels]).mean() > 0.9
    assert result.facts["labels"] is False
    assert "accuracy" not in result.facts["history"][-1]


@pytest.fixture
def distill(given):
    def distill(student, teacher, data, epochs=20, **settings):
        stage = Distill.model_validate({"teacher": "teacher.onnx", "fit": Fit(epochs=epochs, batch_size=32)} | settings)
        return given(stage, teacher).apply(student, Context(data=data, seed=0))

    return distill


def test_exactly_one_of_the_pair_is_named():
    with pytest.raises(ValidationError, match="neither is given"):
        Distill()
    with pytest.raises(ValidationError, match="both are given"):
        Distill.model_validate({"teacher": "a.onnx", "student": "b.onnx"})
    stage = Distill.model_validate({"teacher": "a.onnx", "loss": {"kind": "soft_targets", "temperature": 2}})
    assert stage.loss == SoftTargets(temperature=2)
    assert Distill.model_validate_json(stage.model_dump_json()) == stage


def test_the_weight_of_soft_targets_is_their_alpha():
    """Hinton's letter, and what recipes said before there were other losses."""
    stage = Distill.model_validate({"teacher": "a.onnx", "loss": {"kind": "soft_targets", "alpha": 0.7}})
    assert stage.loss.weight == 0.7
    assert stage.labels_weight == pytest.approx(0.3)
    assert Distill.model_validate_json(stage.model_dump_json()) == stage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"kind": "hints"}}, "hints"),
        ({"loss": {"kind": "soft_targets", "weight": 1.5}}, "less than or equal to 1"),
        ({"loss": {"kind": "dkd", "temperature": 0}}, "greater than 0"),
        ({"loss": {"kind": "sum", "of": []}}, "at least 1"),
        ({"loss": {"kind": "hint"}, "views": 4}, "hint reads its inner tensors"),
        ({"loss": {"kind": "sum", "of": [{"kind": "dist"}, {"kind": "rkd"}]}, "views": 4}, "rkd reads its inner"),
        ({"loss": {"kind": "hint"}, "teacher": ["a.onnx", "b.onnx"]}, "give one teacher, not 2"),
        ({"teacher": []}, "neither is given"),
        ({"teacher": ["a.onnx"], "student": "b.onnx"}, "both are given"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Distill.model_validate({"teacher": "a.onnx"} | changes)


def test_a_recipe_names_one_teacher_or_several():
    one = Distill.model_validate({"teacher": "a.onnx"})
    several = Distill.model_validate({"teacher": ["a.onnx", {"source": "b.py:net", "weights": "none"}]})
    assert [reference.source for reference in one.references()] == ["a.onnx"]
    assert [reference.source for reference in several.references()] == ["a.onnx", "b.py:net"]
    for stage in (one, several):
        assert Distill.model_validate_json(stage.model_dump_json()) == stage


def test_pairs_that_do_not_fit_are_refused(classifier, teacher, data, tmp_path):
    with pytest.raises(UsageError, match=r"student's output is \[batch, 3\], the teacher's is \[batch, 4\]"):
        check_pair(classifier(classes=3), teacher, Progress())
    with pytest.raises(UsageError, match="needs images"):
        Distill.model_validate({"teacher": "a.onnx"}).apply(teacher, Context())
    with pytest.raises(UsageError, match="no such file"):
        Distill.model_validate({"teacher": str(tmp_path / "a.onnx")}).apply(teacher, Context(data=data))


def test_class_names_that_differ_are_warned_about(classifier, teacher):
    class Listening(Progress):
        said = ""

        def warn(self, message):
            self.said += message

    listener = Listening()
    check_pair(classifier().with_meta(labels=("w", "x", "y", "z")), teacher, listener)
    assert "(a, ...)" in listener.said
    assert "(w, ...)" in listener.said


@pytest.mark.parametrize("given", ["NCHW", "NHWC"])
@pytest.mark.parametrize("own", ["NCHW", "NHWC"])
def test_a_teacher_gets_its_own_normalisation_and_layout(classifier, own, given):
    """Whatever the student's input is like, the teacher's network is handed what it was made for."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 6, 6, 1), dtype=np.uint8)
    theirs = Preprocess(size=(6, 6), color="gray", mean=(0.4,), std=(0.3,), layout=given)
    its_own = Preprocess(size=(6, 6), color="gray", scale=1 / 16, mean=(3.0,), std=(2.0,), layout=own)
    guide = Teacher(classifier().with_meta(preprocess=its_own), theirs)
    guide.network = torch.nn.Identity()
    (found,) = guide(torch.from_numpy(normalize(pixels, theirs)))
    np.testing.assert_allclose(found.numpy(), normalize(pixels, its_own), rtol=1e-4, atol=1e-4)


def test_a_teacher_answers_as_its_model_does(classifier, data):
    x = data.train.read(np.arange(9)).x
    for meta in (None, data.preprocess):
        model = classifier(seed=3).with_meta(preprocess=meta)
        (found,) = Teacher(model, data.preprocess)(torch.from_numpy(x))
        expected = run(open_session(model, threads=1), x)[0]
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_teacher_that_ends_in_softmax_answers_in_logits(classifier, data):
    x = torch.from_numpy(data.train.read(np.arange(9)).x)
    (logits,) = Teacher(classifier(), None)(x)
    (soft,) = Teacher(classifier(softmax=True), None)(x)
    torch.testing.assert_close(soft, logits.log_softmax(1), rtol=1e-4, atol=1e-4)


def test_probabilities_and_logits_distil_alike(classifier, data, distill):
    """A pair that ends in Softmax and the same pair without it train to the same weights."""
    results = [
        distill(
            classifier(3, softmax=soft, seed=1), classifier(8, softmax=soft, seed=2), data, epochs=2
        ).model.weights()
        for soft in (False, True)
    ]
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, rtol=1e-2, atol=1e-4)


def test_several_teachers_are_averaged(classifier, data):
    """Logits are: the mean of one that ends in Softmax and of one that does not is the same as of two that do not."""
    x = torch.from_numpy(data.train.read(np.arange(9)).x)
    one, two = (Teacher(classifier(seed=seed), None)(x)[0].log_softmax(1) for seed in (1, 2))
    mixed = Teachers([Teacher(classifier(seed=1, softmax=True), None), Teacher(classifier(seed=2), None)])
    torch.testing.assert_close(mixed(x)[0].softmax(1), ((one + two) / 2).softmax(1), rtol=1e-4, atol=1e-4)


def test_a_student_of_two_teachers_learns_from_both(classifier, unlabelled, given, data):
    """Each of them knows two of the four classes; the student knows all."""
    both = classifier(width=8)
    both = Train(fit=FIT).apply(both, Context(data=data, seed=0)).model
    halves = []
    for known in ([0, 1], [2, 3]):
        half = both.copy()
        weight, bias = both.weights()["fc_w"] * 3, both.weights()["fc_b"] * 3
        others = [c for c in range(4) if c not in known]
        for name, array in (("fc_w", weight), ("fc_b", bias)):
            array[others] = array[others].mean(0)
            half.graph.graph.initializers[name].const_value = ir.tensor(array, name=name)
        halves.append(half)
    stage = Distill.model_validate({"teacher": ["a.onnx", "b.onnx"], "fit": Fit(epochs=20, batch_size=32)})
    result = given(stage, *halves).apply(classifier(width=4, seed=1), Context(data=unlabelled, seed=0))
    assert (answers(result.model, data.test) == data.test.labels).mean() > 0.9
    assert result.facts["teacher_params"] == 2 * (8 * 9 + 16 + 128 + 4)


def test_a_teacher_runs_in_the_precision_that_pays(classifier, data, monkeypatch):
    """Decided by the teacher's own size, whatever the student runs in; what the settings say goes first."""
    x = torch.from_numpy(data.train.read(np.arange(9)).x)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    seen = []
    for wanted, limit in (("auto", 10), ("auto", 10**9), ("fp32", 10), ("bf16", 10**9)):
        monkeypatch.setattr(precision, "BF16_FROM_MACS", limit)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen.append(Teacher(classifier(), None, wanted)(x)[0].dtype)
    assert seen == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]


def test_outputs_of_every_shape_are_mimicked_without_labels(two_headed, unlabelled, distill):
    """Both heads, though one is a hundred times the other: each is off by a small share of its own variance."""
    student, teacher = two_headed(width=8, seed=0), two_headed(seed=1)
    fit = Fit(epochs=40, batch_size=32, optimizer=AdamW(), lr=0.05, weight_decay=0)
    result = distill(student, teacher, unlabelled, loss={"kind": "outputs"}, fit=fit)
    x = unlabelled.test.read(np.arange(192)).x
    ours, theirs, before = (run(open_session(model, threads=1), x) for model in (result.model, teacher, student))
    assert theirs[1].std() > 20 * theirs[0].std()
    for mine, target, first in zip(ours, theirs, before, strict=True):
        assert np.mean((mine - target) ** 2) < 0.2 * target.var()
        assert np.mean((first - target) ** 2) > 2 * target.var()
    assert result.facts["labels"] is False


def test_outputs_leave_the_labels_alone_unless_told(two_headed, classifier, data, distill):
    gentle = Fit(epochs=1, batch_size=32, lr=1e-3)
    distill(two_headed(seed=0), two_headed(seed=1), data, fit=gentle, loss={"kind": "outputs"})
    both = distill(classifier(seed=1), classifier(), data, epochs=1, loss={"kind": "outputs"}, labels=0.5)
    assert both.facts["labels"] is True
    with pytest.raises(UsageError, match="soft_targets compares classes"):
        distill(two_headed(seed=0), two_headed(seed=1), data, epochs=1)
