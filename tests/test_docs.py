"""The documentation tells the truth: its examples run, its links lead somewhere."""

import re
from pathlib import Path

import pytest

from edgeopt.reference import to_reference
from edgeopt.report import read_report
from edgeopt.units import format_bytes

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def test_the_worked_examples_of_adding_a_method_run() -> None:
    text = (ROOT / "docs" / "adding.md").read_text()
    examples = PYTHON.findall(text)
    assert len(examples) == 10
    names: dict[str, object] = {"__name__": "adding"}
    for example in examples:
        exec(compile(example, "docs/adding.md", "exec"), names)


@pytest.mark.parametrize("page", ["detection", "pruning", "training"])
def test_the_example_of_a_page_runs(page: str) -> None:
    (example,) = PYTHON.findall((ROOT / "docs" / f"{page}.md").read_text())
    exec(compile(example, f"docs/{page}.md", "exec"), {"__name__": page})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_results_in_the_readme_are_those_of_the_models_that_ship() -> None:
    text = (ROOT / "README.md").read_text()
    report = read_report(ROOT / "models" / "digits" / "report.json")
    for row in report.tiers:
        assert row.accuracy is not None
        assert row.accuracy_low is not None
        assert row.accuracy_high is not None
        line = (
            f"| `{row.tier}`, {row.precision} | {format_bytes(row.size_bytes)} | {100 * row.accuracy:.2f} % "
            f"| {100 * row.accuracy_low:.2f} to {100 * row.accuracy_high:.2f} % | {row.drop_points:.2f} pt |"
        )
        assert line in text


def test_the_reference_is_that_of_the_code() -> None:
    """`edgeopt explain --markdown > docs/reference.md` after a change."""
    assert (ROOT / "docs" / "reference.md").read_text() == to_reference()


def test_every_page_of_the_site_is_in_its_navigation_and_is_there() -> None:
    navigation = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(navigation) == sorted(pages)
