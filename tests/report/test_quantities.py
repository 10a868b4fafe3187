"""The counts behind the figures: what numpy packed is what the gate, without numpy, unpacks."""

from __future__ import annotations

import numpy as np
import pytest
from example_report import BASELINE, example_row
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.measure.changes import pack_bits
from edgeopt.measure.statistics import paired_drop
from edgeopt.report.quantities import QUANTITIES, correct_images

DROP = next(quantity for quantity in QUANTITIES if quantity.limit == "drop")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=70))
def test_answers_are_read_as_they_were_packed(pairs: list[tuple[bool, bool]]) -> None:
    base, own = (np.array(column) for column in zip(*pairs, strict=True))
    row = example_row(
        "mcu",
        samples=len(pairs),
        correct_bits=pack_bits(own),
        baseline=BASELINE.model_copy(update={"correct_bits": pack_bits(base)}),
    )
    images = correct_images(row, len(pairs))
    assert images is not None
    assert f"{images:0{len(pairs)}b}" == "".join("01"[int(right)] for right in own)
    evidence = DROP.evidence(row)
    assert evidence is not None
    assert (evidence.estimate, *evidence.interval(1.959963984540054)) == pytest.approx(paired_drop(base, own))


def test_answers_of_another_number_of_images_are_not_used() -> None:
    assert correct_images(example_row("mcu", correct_bits=pack_bits(np.ones(9, bool))), 8) is None
    assert correct_images(example_row("mcu", correct_bits="?"), 8) is None
    assert correct_images(example_row("mcu", correct_bits=""), 8) is None
