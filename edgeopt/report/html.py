"""report.html: one page that opens from disk, asks the network for nothing, and prints.

Everything that comes from a recipe, a model or a file name passes through `escape`. The content security policy in the
page's head is the second fence: it allows the page's scripts by their hashes, and no request at all. Charts are drawn
by Observable Plot (`vendor/README.md`) from figures that the page carries; each figure is also in a table or a list.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from edgeopt.report.figures import duration, summary
from edgeopt.report.markup import pairs, section, warnings
from edgeopt.report.report import Environment, Report
from edgeopt.report.sections.changes import changes
from edgeopt.report.sections.layers import layers
from edgeopt.report.sections.overview import artifacts, charts, tiers
from edgeopt.report.sections.stages import stages

__all__ = ["to_html"]

HERE = Path(__file__).parent
SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "page.js")
FOOTER = (
    "1 KB is 1000 bytes. One multiply-add is one MAC. A drop is in percentage points under the float model "
    "on the same images. Intervals are 95 %. Latencies are medians, taken in turn with the float model."
)
CONTENTS = {
    "tiers": "Tiers",
    "artifacts": "Artifacts",
    "charts": "Costs",
    "layers": "Layers",
    "changes": "Changed answers",
    "stages": "Stages",
    "reproduce": "Reproduce",
}


def to_html(report: Report) -> str:
    """The page, complete in itself."""
    parts = {
        "tiers": tiers(report),
        "artifacts": artifacts(report),
        "charts": charts(report),
        "layers": layers(report),
        "changes": changes(report),
        "stages": stages(report),
        "reproduce": _reproduce(report),
    }
    scripts = [_read(name) for name in SCRIPTS]
    return Template(_read("page.html")).substitute(
        title=escape(f"{report.name}: edgeopt report"),
        style=_read("page.css"),
        hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        scripts="".join(f"<script>{script}</script>" for script in scripts),
        header=_header(report),
        contents="".join(f'<li><a href="#{name}">{CONTENTS[name]}</a></li>' for name in parts if parts[name]),
        main="\n".join(filter(None, parts.values())),
        footer=FOOTER,
    )


@cache
def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _header(report: Report) -> str:
    ok, words = summary(report)
    state = "none" if ok is None else "pass" if ok else "fail"
    parts = [escape(report.created.replace("T", " ")[:16]), f"took {duration(report.seconds)}"]
    parts += ["finished stages reused"] if any(stage.reused for stage in report.stages) else []
    if report.data is not None:
        parts.insert(0, f"{escape(report.data.name)}, {report.data.test:,} test images")
    return (
        f'<div class="head"><h1>{escape(report.name)}</h1>'
        '<button id="theme" type="button" hidden>Theme: auto</button></div>'
        f'<p class="facts">{" · ".join(filter(None, parts))}</p>'
        f'<p class="banner {state}">{escape(words)}</p>{warnings(report.warnings)}'
        "<noscript><p>Charts need JavaScript; every figure is in the tables too.</p></noscript>"
    )


def _reproduce(report: Report) -> str:
    run = [("recipe hash", report.recipe_hash), ("seed", str(report.seed))]
    if report.data is not None:
        data = report.data
        split = f"{data.train:,} train, {data.calibration:,} calibration, {data.test:,} test"
        run += [("data", f"{data.name}: {split}"), ("data hash", data.fingerprint)]
        run += [("left out", f"{data.skipped:,} files that could not be decoded")] if data.skipped else []
    run += [(row.path, f"sha256 {row.sha256}") for row in report.tiers]
    command = f'<pre tabindex="0"><code>{escape(report.command)}</code></pre>' if report.command else ""
    cards = [f'<article class="card"><h3>The run</h3>{pairs(run)}</article>']
    for environment in dict.fromkeys(row.environment for row in report.tiers):
        cards.append(f'<article class="card"><h3>Measured on</h3>{pairs(_environment(environment))}</article>')
    return section("reproduce", "To reproduce", f'{command}<div class="grid wide spaced">{"".join(cards)}</div>')


def _environment(environment: Environment) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in environment if value not in (None, "")]
