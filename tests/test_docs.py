"""The documentation tells the truth: its examples run, its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def test_the_worked_examples_of_adding_a_method_run() -> None:
    text = (ROOT / "docs" / "adding.md").read_text()
    examples = PYTHON.findall(text)
    assert len(examples) == 7
    names: dict[str, object] = {"__name__": "adding"}
    for example in examples:
        exec(compile(example, "docs/adding.md", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target
