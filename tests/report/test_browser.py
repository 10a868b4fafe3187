"""report.html in a real browser: it renders, its script runs, it complains about nothing, it asks for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from example_report import example_report

from edgeopt.gate import check
from edgeopt.report.html import to_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")


def browse(html: str, folder: Path) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what they and the policy complained about."""
    (folder / "page.html").write_text(html)
    command = [str(CHROMIUM), *FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, errors="replace")
    return done.stdout, [entry for entry in done.stderr.splitlines() if "CONSOLE" in entry]


def page() -> str:
    report = example_report()
    return to_html(report.model_copy(update={"gate": tuple(check(report, report.limits))}))


def test_it_renders_with_its_figures_and_without_a_complaint(tmp_path: Path) -> None:
    document, complaints = browse(page(), tmp_path)
    assert complaints == []
    for figure in ("18.2 KB", "98.06 %", "0.0287 ms", "All 5 limits hold"):
        assert figure in document
    assert "<title>mcu" not in document, "the script puts its own tips in place of the titles"


def test_the_policy_stops_requests_and_foreign_scripts_and_the_test_would_see_it(tmp_path: Path) -> None:
    intruder = '<img src="https://example.invalid/x.png"><script>document.title = "owned"</script></main>'
    document, complaints = browse(page().replace("</main>", intruder), tmp_path)
    assert len(complaints) == 2
    assert "<title>owned" not in document


def test_pointing_at_a_model_shows_its_figures(tmp_path: Path) -> None:
    point = "document.querySelector('.point.tier').dispatchEvent(new Event('EVENT', {bubbles: true}))"
    html = re.sub(r"<meta http-equiv[^>]*>", "", page())
    for number, event in enumerate(("pointerover", "focusin")):
        folder = tmp_path / str(number)
        folder.mkdir()
        script = f"<script>{point.replace('EVENT', event)}</script></body>"
        document, complaints = browse(html.replace("</body>", script), folder)
        assert complaints == []
        assert re.search(r'<div id="tip" style="[^"]*">mcu \(int8\): 98.06 % at 18.2 KB</div>', document)
