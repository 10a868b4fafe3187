"""The front, and the views of a sweep."""

import itertools

import pytest
from example_report import example_report, example_row
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import UsageError
from edgeopt.report import write_report
from edgeopt.sweep import plan_sweep, read_sweep
from edgeopt.sweep.result import Sweep, find_report, front, fronts_of, row_of
from edgeopt.sweep.run import write_sweep
from edgeopt.sweep.views import to_markdown, to_terminal

POINTS = st.dictionaries(st.text("abcdef", min_size=1), st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_the_front_is_what_no_other_point_beats(points):
    def beats(one, other):
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    expected = {name for name, own in points.items() if not any(beats(other, own) for other in points.values())}
    found = front(points)
    assert set(found) == expected
    costs = [points[name][1] for name in found]
    assert costs == sorted(costs)


@pytest.fixture
def sweep():
    """Three variants of one tier: small, accurate, and one that is neither; a fourth failed."""
    plan = plan_sweep("digits", {"seed": [0, 1, 2, 3]})
    figures = [(10_000, 0.97), (20_000, 0.99), (30_000, 0.98)]
    rows = [
        row_of(variant, example_report(tiers=(example_row("mcu", size_bytes=size, accuracy=share),)), "")
        for variant, (size, share) in zip(plan.variants, figures, strict=False)
    ]
    rows.append(row_of(plan.variants[3], None, "training: the loss is <b>not</b> finite"))
    return Sweep(name="digits", recipe="digits", varied={"seed": (0, 1, 2, 3)}, variants=rows, fronts=fronts_of(rows))


def test_a_sweep_is_written_in_every_form_and_read_back(sweep, tmp_path):
    write_sweep(sweep, tmp_path)
    assert read_sweep(tmp_path / "sweep.json") == sweep
    assert sweep.fronts["mcu"]["size"] == ("seed=0", "seed=1")
    page = (tmp_path / "sweep.html").read_text()
    assert page.count("<circle") == 6
    assert page.count('class="best"') == len(sweep.fronts["mcu"]["size"]) + len(sweep.fronts["mcu"]["latency"])
    assert "<b>not</b>" not in page
    assert 'href="seed%3D1/report.html"' in page
    markdown = (tmp_path / "sweep.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("| [seed")]
    assert [line.split("]")[0] for line in lines] == ["| [seed=1", "| [seed=2", "| [seed=0"]
    assert "seed=3: training" in markdown
    assert "size" in lines[0]
    assert "size" not in lines[1].rpartition("|")[0].rpartition("|")[2]


def test_a_sweep_that_failed_altogether_still_has_its_views(sweep):
    rows = tuple(row for row in sweep.variants if row.state == "failed")
    nothing = sweep.model_copy(update={"variants": rows, "fronts": fronts_of(rows)})
    assert "1 failed" in to_markdown(nothing)
    assert len(to_terminal(nothing)) == 1


def test_a_variant_is_finished_when_its_own_recipes_report_and_artifacts_are_there(tmp_path):
    (variant,) = plan_sweep("digits", {"seed": [5]}).variants
    row = example_row("mcu")
    folder = tmp_path / variant.name
    for recipe_hash, artifact, finished in itertools.product((variant.recipe.digest(), "0" * 64), (True, False), (1,)):
        folder.mkdir(exist_ok=True)
        write_report(example_report(tiers=(row,), recipe_hash=recipe_hash), folder)
        place = folder / row.path
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_bytes(b"") if artifact else place.unlink(missing_ok=True)
        expected = artifact and recipe_hash == variant.recipe.digest()
        assert (find_report(variant, tmp_path) is not None) == expected, finished


def test_another_file_is_no_sweep(tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UsageError, match=r"is no sweep\.json"):
        read_sweep(tmp_path / "sweep.json")
