import json
from dataclasses import replace

import numpy as np
import pytest

from edgeopt.errors import UsageError
from edgeopt.model.runtime import open_session, run
from edgeopt.stage import Context
from edgeopt.train import Fit, Train
from edgeopt.train.stage import ends_in_softmax

STAGE = Train(fit=Fit(epochs=15, batch_size=32))


def accuracy(model, split):
    outputs = run(open_session(model, threads=1), split.read(np.arange(len(split))).x)[0]
    return (outputs.argmax(1) == split.labels).mean()


@pytest.mark.parametrize("softmax", [False, True], ids=["logits", "probabilities"])
def test_an_onnx_model_learns_and_the_given_one_stays(data, classifier, softmax):
    model = classifier(softmax=softmax)
    before = model.fingerprint()
    result = STAGE.apply(model, Context(data=data, seed=1))
    assert model.fingerprint() == before
    assert accuracy(model, data.test) < 0.6
    assert accuracy(result.model, data.test) > 0.95
    assert result.model.weights().keys() == model.weights().keys()
    assert ends_in_softmax(result.model) == softmax


def test_an_onnx_model_learns_in_bf16(data, classifier):
    stage = Train(fit=STAGE.fit.model_copy(update={"precision": "bf16"}))
    assert accuracy(stage.apply(classifier(), Context(data=data, seed=1)).model, data.test) > 0.95


def test_probabilities_and_logits_train_alike(data, classifier):
    """A network that ends in Softmax and the same without it end with the same weights."""
    stage = Train(fit=Fit(epochs=2, batch_size=32))
    logits, probabilities = (
        stage.apply(classifier(softmax=softmax), Context(data=data)).model.weights() for softmax in (False, True)
    )
    for name, array in logits.items():
        np.testing.assert_allclose(probabilities[name], array, rtol=1e-2, atol=1e-4)


def test_facts_and_metadata_say_what_was_done(data, classifier):
    result = STAGE.apply(classifier(), Context(data=data, seed=1))
    assert json.loads(json.dumps(result.facts)) == result.facts
    assert result.facts["params"] == 4 * 9 + 2 * 4 + 16 * 4 + 4
    assert len(result.facts["history"]) == result.facts["epochs"] == 15
    assert result.model.meta.labels == ("a", "b", "c", "d")
    assert result.model.meta.preprocess == data.preprocess


def test_the_same_seed_gives_the_same_model(data, classifier, tmp_path):
    results = [
        STAGE.apply(classifier(), Context(data=data, seed=seed, scratch=scratch)).model.fingerprint()
        for seed, scratch in ((1, None), (1, tmp_path), (2, None))
    ]
    assert results[0] == results[1] != results[2]
    assert (tmp_path / "checkpoint.pt").exists()


def test_data_that_does_not_fit_is_refused(data, classifier):
    with pytest.raises(UsageError, match="needs images"):
        STAGE.apply(classifier(), Context())
    with pytest.raises(UsageError, match="needs labelled images"):
        STAGE.apply(classifier(), Context(data=replace(data, train=replace(data.train, labels=None))))
    with pytest.raises(UsageError, match=r"\[batch, 4 classes\], the model's are \['batch', 3\]"):
        STAGE.apply(classifier(classes=3), Context(data=data))
