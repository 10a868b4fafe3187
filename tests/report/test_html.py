"""report.html: the figures are there, nothing a user wrote becomes markup, and nothing is asked of the network."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from example_report import ENVIRONMENT, example_report, example_row

from edgeopt.gate import check
from edgeopt.report import Change, ClassChange, Report, StageRow, Verdict
from edgeopt.report.html import HERE, SCRIPTS, to_html

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;`${x}"
VOID = {"meta", "br", "img", "input", "link"}


class Outline(HTMLParser):
    """Tags with the names of their attributes, the text, and whether every tag was closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.text = ""
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["script"] and self.open[-1:] != ["style"]:
            self.text += data


CLEAR = {"mcu": {"size": "20KB", "drop": "5pt"}, "all": {"accuracy": "90%"}}
"""Limits that hold whatever the samples' noise."""


def gated(**changes: Any) -> Report:
    report = example_report(**{"limits": CLEAR} | changes)
    return report.model_copy(update={"gate": tuple(check(report, report.limits))})


def poison(value: Any) -> Any:
    """Every string of a dumped report, names of settings and facts too, with markup behind it; a metric is one of two
    words."""
    if isinstance(value, dict):
        return {key: item if key == "metric" else poison(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return value + HOSTILE if isinstance(value, str) and not value.startswith("data:image/") else value


def test_every_figure_of_the_table_is_on_the_page() -> None:
    text = Outline(to_html(gated())).text.replace("\xa0", " ")
    for figure in ("18.2 KB", "98.06 %", "0.56 pt", "0.0287 ms", "1.44x", "2.05 KB", "11.4 k", "295 k", "98.89 %"):
        assert figure in text
    for interval in ("96.06 to 99.06 %", "-0.15 to 1.80 pt", "0.0278 to 0.0304 ms"):
        assert interval in text
    assert "All 5 limits hold" in text
    assert "features.3.conv" in text
    assert "36.4 dB" in text
    assert "4 answers changed (1.11 %): 2 lost, 1 gained" in text
    assert "32 → 24" in text
    assert "edgeopt run recipes/digits.yaml --out out/digits" in text
    assert ENVIRONMENT.cpu in text
    assert all(row.sha256 in text for row in example_report().tiers)


def test_the_markup_is_the_same_whatever_users_write() -> None:
    report = gated(warnings=("one",), tiers=(example_row("mcu", warnings=("two",)), example_row("gpu")))
    hostile = Report.model_validate(poison(report.model_dump(mode="json", exclude={"limits"})))
    page = Outline(to_html(hostile))
    assert page.tags == Outline(to_html(report)).tags
    assert page.text.count("alert(1)") > 50
    assert sum(tag[0] == "script" for tag in page.tags) == len(SCRIPTS)


def test_hostile_names_of_settings_and_facts_stay_text() -> None:
    stage = StageRow(index=1, kind="x", title="y", settings={HOSTILE: 1}, facts={HOSTILE: {HOSTILE: [HOSTILE]}})
    tags = Outline(to_html(example_report(stages=(stage,)))).tags
    assert sum(tag[0] == "script" for tag in tags) == len(SCRIPTS)
    assert sum(tag[0] == "img" for tag in tags) == 2, "the pictures"


def test_the_memory_of_the_c_program_names_the_layer_at_the_peak() -> None:
    page = to_html(example_report())
    assert "arena peak at features.1.conv" in page
    assert "cortex-m4: 64 test images of digits" in page
    hostile = example_row("mcu", memory_timeline=[{"layer": "<b>", "bytes": 0}])
    assert "peak at &lt;b&gt;" in to_html(example_report(tiers=(hostile,)))


def test_nothing_is_loaded_from_anywhere() -> None:
    html = to_html(gated())
    page = Outline(html)
    addresses = [value or "" for name, value in page.attributes if name in ("src", "href", "action", "srcset")]
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    own = re.sub(
        r"<script>// https://d3js.org.*?</script>|<script>// @observablehq.*?</script>", "", html, flags=re.DOTALL
    )
    assert len(own) < len(html) / 2
    assert not re.search(r"https?:(?!//www.w3.org/2000/svg)|@import|url\(|fetch|XMLHttpRequest|import\(", own)
    assert "default-src 'none'" in html


def test_the_policy_allows_exactly_the_scripts_of_the_page() -> None:
    html = to_html(example_report())
    found = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found]
    assert len(digests) == len(SCRIPTS)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed};" in html


def test_vendored_libraries_are_those_that_the_readme_names_with_their_licences() -> None:
    text = (HERE / "vendor" / "README.md").read_text()
    files = sorted((HERE / "vendor").glob("*.js"))
    assert [f"vendor/{file.name}" for file in files] == sorted(SCRIPTS[:-1])
    for file in files:
        line = next(line for line in text.splitlines() if line.startswith(f"| `{file.name}`"))
        assert hashlib.sha256(file.read_bytes()).hexdigest() in line
        licence = re.search(r"`([a-z0-9]+\.LICENSE)`", line)
        assert licence is not None
        assert "Permission to use, copy, modify" in (HERE / "vendor" / licence[1]).read_text()


def test_a_picture_that_is_no_picture_is_refused() -> None:
    for address in (
        "https://example.invalid/x.png",
        "data:text/html;base64,AAAA",
        'data:image/png;base64,A" onload="x',
    ):
        with pytest.raises(ValueError, match="pictures"):
            example_report(pictures={"2": address})


def test_hostile_class_names_stay_text() -> None:
    row = example_row(
        "mcu",
        changes=(Change(image=2, right=HOSTILE, before=HOSTILE, after=HOSTILE),),
        classes=(ClassChange(name=HOSTILE, images=3, lost=1, gained=0),),
    )
    page = Outline(to_html(example_report(tiers=(row,))))
    assert sum(tag[0] == "script" for tag in page.tags) == len(SCRIPTS)
    assert sum(tag[0] == "img" for tag in page.tags) == 1
    assert page.text.count(HOSTILE) == 5


def test_the_third_outcome_is_told_from_the_others() -> None:
    unsure = Verdict(tier="mcu", limit="drop", found=1.0, allowed=1.0, ok=False, uncertain=True, sentence="so so")
    report = example_report().model_copy(update={"gate": (unsure,)})
    page = to_html(report)
    assert '<span class="mark unsure">? cannot tell</span>' in page
    assert "1 of 1 limits cannot be told" in page
    assert 'class="card tier cannot-tell"' in page


def test_the_page_of_a_large_run_stays_small() -> None:
    layers = tuple(example_row("mcu").layers[1].model_copy(update={"name": f"layer.{n}"}) for n in range(2_000))
    history = [{"epoch": n, "loss": 1 / (n + 1)} for n in range(2_000)]
    stage = StageRow(index=1, kind="train", title="Train", facts={"history": history})
    changes = tuple(Change(image=n, right="a", before="a", after="b") for n in range(100))
    row = example_row("mcu", layers=layers, changes=changes)
    pictures = {str(n): "data:image/jpeg;base64," + 8_000 * "A" for n in range(24)}
    page = to_html(example_report(tiers=(row, row, row), stages=(stage,), pictures=pictures))
    assert len(page) < 2_000_000
    assert "1,800 smaller layers" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": (), "tiers": (), "limits": {}, "data": None},
        {"tiers": (example_row("mcu", layers=(), latency_ms=None, speedup=None, peak_ram_bytes=None),)},
        {"tiers": (example_row("mcu", accuracy=1.0, accuracy_low=1.0, accuracy_high=1.0, latency_ms=0.0),)},
        {"tiers": (example_row("mcu", accuracy=0.0, accuracy_low=None, accuracy_high=None, size_bytes=0),)},
        {"stages": (StageRow(index=0, kind="t", title="", facts={"history": [{"loss": None}, {"loss": 1e308}]}),)},
        {"stages": (StageRow(index=0, kind="t", title="", facts={"history": [{"loss": 2}, {"loss": -1e308}]}),)},
    ],
)
def test_a_page_comes_out_whatever_is_missing(changes: dict[str, Any]) -> None:
    page = Outline(to_html(example_report(**changes)))
    assert not re.search(r"\b(nan|inf|None|NaN|Infinity)\b", " ".join(value or "" for _, value in page.attributes))


def test_without_labels_agreement_stands_in_for_accuracy() -> None:
    blank = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "drop_points": None}
    baseline = example_row("mcu").baseline.model_copy(update={"accuracy": None})
    text = Outline(to_html(example_report(tiers=(example_row("mcu", baseline=baseline, **blank),)))).text
    assert "Agreement with the float model against size" in text
    assert "98.89 %" in text


def test_a_limit_that_fails_is_called_by_name_and_counted() -> None:
    text = Outline(to_html(gated(limits={"mcu": {"size": "18KB", "drop": "1pt"}}))).text.replace("\xa0", " ")
    assert "1 of 2 limits not met" in text
    assert "over by 213 B" in text
