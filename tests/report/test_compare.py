"""Two reports beside each other: what changed, how surely, in every view."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from example_report import ENVIRONMENT, example_report, example_row
from rich.console import Console

from edgeopt.errors import UsageError
from edgeopt.report import DataRow, Report
from edgeopt.report.compare import Difference, compare_reports
from edgeopt.report.compare_views import compare_data, compare_html, compare_markdown, compare_terminal

HOSTILE = "<script>x</script>|`*"


def mcu(**changes: Any) -> Report:
    return example_report(tiers=(example_row("mcu", **{"correct_bits": "", **changes}),))


def differences(first: Report, second: Report) -> dict[str, Difference]:
    comparison = compare_reports(first, second, ["a", "b"])
    return {own.quantity.limit: own for own in comparison.pairs[0].differences}


BEFORE = mcu(size_bytes=20_000, instructions=400_000)
AFTER = mcu(sha256="1" * 64, size_bytes=15_000, instructions=500_000, mismatches=3, accuracy=0.9)


def test_what_is_counted_is_better_worse_or_the_same() -> None:
    found = differences(BEFORE, AFTER)
    assert {name: found[name].outcome for name in ("size", "instructions", "mismatches", "macs")} == {
        "size": "better",
        "instructions": "worse",
        "mismatches": "same",
        "macs": "same",
    }
    assert found["size"].words == "-5 KB (-25.0 %)"
    assert found["size"].interval == ""


def test_an_accuracy_has_points_and_an_interval() -> None:
    found = differences(BEFORE, AFTER)["accuracy"]
    assert found.words == "-8.06 pt"
    assert found.outcome == "worse"
    assert found.low < found.change < found.high < 0
    assert "360 and 360 images, not paired" in found.interval
    assert differences(BEFORE, mcu(sha256="1" * 64, accuracy=0.9778))["accuracy"].outcome == "cannot tell"


def test_a_higher_speedup_is_better_and_a_higher_latency_is_worse() -> None:
    slower = mcu(
        latency_ms=0.05, latency_low_ms=0.049, latency_high_ms=0.051, speedup_low=0.7, speedup_high=0.75, speedup=0.72
    )
    found = differences(BEFORE, slower)
    assert (found["latency"].outcome, found["speedup"].outcome) == ("worse", "worse")
    back = differences(slower, BEFORE)
    assert (back["latency"].outcome, back["speedup"].outcome) == ("better", "better")
    assert back["speedup"].low > 0 > back["latency"].high


def test_latencies_of_two_machines_are_not_judged() -> None:
    there = mcu(latency_ms=9.0, environment=ENVIRONMENT.model_copy(update={"cpu": "another"}))
    found = differences(BEFORE, there)["latency"]
    assert found.outcome == "cannot tell"
    assert found.interval == "they were timed on different machines"


def test_two_spreads_add_up_as_squares_do() -> None:
    one = {"latency_ms": 1.0, "latency_low_ms": 0.7, "latency_high_ms": 1.3}
    found = differences(mcu(**one), mcu(**one | {"sha256": "1" * 64}))["latency"]
    assert found.high == pytest.approx(0.3 * 2**0.5)


def test_notes_say_what_cannot_be_paired_and_which_tiers_stand_alone() -> None:
    other = example_report(tiers=(example_row("mcu"),), data=DataRow(name="other", fingerprint="x", labels=10))
    notes = compare_reports(example_report(), other, ["a", "b"]).notes
    assert "different images" in notes[0]
    assert notes[1] == "Only the first has jetson, gpu."


def test_reports_without_a_tier_in_common_are_refused() -> None:
    with pytest.raises(UsageError, match="no tier in common"):
        compare_reports(mcu(), example_report(tiers=(example_row("gpu"),)), ["a", "b"])


class Cells(HTMLParser):
    """The text of every table cell; what is no markup of ours stays text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("th", "td", "h1", "h2"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data


def test_every_view_has_the_figures_and_none_runs_what_a_name_says() -> None:
    row = example_row("mcu").model_copy(update={"tier": HOSTILE})
    first, second = (example_report(tiers=(row.model_copy(update={"size_bytes": size}),)) for size in (20_000, 15_000))
    comparison = compare_reports(first, second, [HOSTILE, "b"])
    page = compare_html(comparison)
    cells = Cells(page)
    assert "script" not in cells.tags
    assert {"20 KB", "15 KB", "-5 KB (-25.0 %)", "better"} <= set(cells.texts)
    assert "http" not in page.split("</style>")[1]
    markdown = compare_markdown(comparison)
    assert "<script" not in markdown.replace("\\<", "")
    assert "| size | 20 KB | 15 KB | -5 KB (-25.0 %) | **better** |" in markdown
    data = json.loads(json.dumps(compare_data(comparison), allow_nan=False))
    assert data["tiers"][0]["figures"][0] == {
        "figure": "size",
        "before": 20_000,
        "after": 15_000,
        "change": -5_000,
        "low": -5_000,
        "high": -5_000,
        "basis": "",
        "outcome": "better",
    }


def test_the_terminal_table_fits_80_columns() -> None:
    screen = Console(width=80, record=True, file=None, quiet=False)
    with screen.capture() as capture:
        for part in compare_terminal(compare_reports(example_report(), AFTER, ["a", "b"])):
            screen.print(part)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "-8.06 pt" in text
    assert "…" not in text
