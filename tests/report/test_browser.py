"""report.html in a real browser: it draws every chart, shows the report's figures, complains about nothing, asks for
nothing, works with the keyboard, fits a phone and can be read.

The page runs in a frame of a page of ours, so that its own policy stays as it is while our script looks into it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from example_report import BASELINE, LAYERS, example_report

from edgeopt.report import Report, StageRow
from edgeopt.report.html import to_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --dump-dom"
)
DESKTOP, PHONE = 1280, 390
PAGE_REQUEST = re.compile(r'"headers":\[[^\]]*"sec-ch-ua-mobile[^\]]*\][^}]*\},"url":"((?!file:)[^"]+)"')
"""In chromium's log of the network; what the browser asks for on its own account is not sent with these headers."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<script>
frame.onload = () => {{
  const w = frame.contentWindow, d = frame.contentDocument;
  const all = (selector) => [...d.querySelectorAll(selector)];
  const out = document.createElement("pre");
  out.id = "out";
  let found;
  try {{ found = (() => {{ {script} }})(); }} catch (error) {{ found = error.stack; }}
  out.textContent = JSON.stringify(found);
  document.body.replaceChildren(out);
}};
</script>"""


def browse(page: str, script: str, folder: Path, width: int = DESKTOP) -> tuple[Any, list[str], list[str]]:
    """What `script` returns about the page, the console's complaints, and the addresses that were asked for."""
    file, log = folder / "frame.html", folder / "net.json"
    file.write_text(FRAME.format(width=width, page=escape(page), script=script))
    command = [str(CHROMIUM), *FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}"]
    command += [f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, errors="replace")
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    asked = PAGE_REQUEST.findall(log.read_text())
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(found[1])), complaints, asked


def page(**changes: Any) -> str:
    return to_html(example_report(**changes))


LOOK = """
const texts = (selector) => all(selector).map((node) => node.textContent);
return {
  plots: all(".plot").map((place) => [place.dataset.kind, place.querySelectorAll(".target").length]),
  tips: all(".plot[data-kind=tradeoff] .target").map((node) => node.dataset.tip),
  strips: all(".plot[data-kind=strips]")[0].querySelectorAll(".target")[1].getAttribute("aria-label"),
  names: texts(".plot[data-kind=tradeoff] .name"),
  rows: [...all("table.layers")[0].tBodies[0].rows].map((row) =>
    [...row.cells].slice(1).map((cell) => cell.dataset.value)),
  title: d.title,
};
"""


def test_every_chart_is_drawn_with_the_reports_figures_and_nothing_is_complained_of_or_asked_for(
    tmp_path: Path,
) -> None:
    found, complaints, asked = browse(page(), LOOK, tmp_path)
    assert complaints == []
    assert asked == []
    report = example_report()
    kinds = [kind for kind, _ in found["plots"]]
    assert kinds.count("tradeoff") == 3, "size, latency and RAM"
    assert kinds.count("strips") == 4, "one an artifact, and the C program's arena"
    assert kinds.count("curve") == 9, "loss, accuracy and lr of three stages"
    assert all(count > 0 for _, count in found["plots"])
    tips = [f"{100 * row.accuracy:.2f} %" for row in report.tiers if row.accuracy is not None]
    assert all(any(text in tip for tip in found["tips"]) for text in tips)
    assert {"float", "mcu", "jetson", "gpu"} == set(found["names"])
    assert found["strips"].startswith(
        "features.1.conv (Conv): Weights 2.42 KB, MACs 147 k, Time 0.0095 ms, RAM 2.05 KB"
    )
    figures = [(own.bytes, own.macs, own.time_ms, own.live_bytes, own.sqnr_db) for own in LAYERS]
    assert [[float(cell or 0) for cell in row] for row in found["rows"]] == [
        [float(f or 0) for f in row] for row in figures
    ]


def test_points_lie_where_their_figures_say(tmp_path: Path) -> None:
    script = """
    const place = all(".plot[data-kind=tradeoff]")[0];
    const at = (text) => {
      const node = [...place.querySelectorAll(".target")].find((own) => own.dataset.tip.startsWith(text));
      const box = node.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    };
    return [at("mcu"), at("gpu"), at("distill"), at("Stage 1")];
    """
    (mcu, gpu, base, teacher), _, _ = browse(page(), script, tmp_path)
    assert mcu[0] < gpu[0] < base[0] < teacher[0], "smaller is further left"
    assert mcu[1] > gpu[1] > teacher[1], "better is higher"
    assert gpu[1] == pytest.approx(base[1], abs=1), "equally accurate"


def test_the_policy_stops_requests_and_foreign_scripts_and_the_tests_would_see_it(tmp_path: Path) -> None:
    intruder = '<img src="https://example.invalid/x.png"><script>document.title = "owned"</script></main>'
    found, complaints, asked = browse(page().replace("</main>", intruder), LOOK, tmp_path)
    assert found["title"] != "owned"
    assert len(complaints) == 2
    assert asked == []
    (tmp_path / "open").mkdir()
    unfenced = re.sub(r"<meta http-equiv[^>]*>", "", page().replace("</main>", intruder))
    _, _, asked = browse(unfenced, LOOK, tmp_path / "open")
    assert any("example.invalid" in address for address in asked)


KEYS = """
const place = all(".plot[data-kind=tradeoff]")[0], targets = [...place.querySelectorAll(".target")];
const press = (key) => d.activeElement.dispatchEvent(new w.KeyboardEvent("keydown", {key, bubbles: true}));
const tip = d.getElementById("tip");
const seen = [];
const look = () => seen.push([targets.indexOf(d.activeElement), tip.hidden ? "" : tip.textContent]);
targets[0].focus(); look();
press("ArrowRight"); look();
press("End"); look();
press("ArrowRight"); look();
press("Escape"); look();
press("Home"); look();
const stops = targets.map((node) => node.getAttribute("tabindex"));
targets[2].dispatchEvent(new w.Event("pointerover", {bubbles: true}));
return {seen, stops, tips: targets.map((node) => node.dataset.tip), hovered: tip.textContent};
"""


def test_keyboard_and_pointer_name_the_points(tmp_path: Path) -> None:
    found, complaints, _ = browse(page(), KEYS, tmp_path)
    tips, last = found["tips"], len(found["tips"]) - 1
    assert complaints == []
    assert found["seen"] == [
        [0, tips[0]],
        [1, tips[1]],
        [last, tips[last]],
        [last, tips[last]],
        [last, ""],
        [0, tips[0]],
    ]
    assert found["stops"] == ["0"] + last * ["-1"], "a chart is one stop of the Tab key"
    assert found["hovered"] == tips[2]


def test_headings_sort_and_say_so(tmp_path: Path) -> None:
    script = """
    const table = all("table.layers")[0], heads = [...table.tHead.rows[0].cells];
    const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].firstChild.textContent.trim());
    const seen = [];
    for (const n of [1, 1, 3, 0, 0]) {
      heads[n].firstChild.click();
      seen.push([heads[n].getAttribute("aria-sort"), order()]);
    }
    return {seen, sorted: heads.filter((head) => head.hasAttribute("aria-sort")).length};
    """
    found, _, _ = browse(page(), script, tmp_path)
    names = [layer.name for layer in LAYERS]
    heavy = sorted((layer for layer in LAYERS if layer.bytes), key=lambda layer: -layer.bytes)
    (first, by_weight), (second, turned), (_, by_time), _, (_, again) = found["seen"]
    assert (first, second, found["sorted"]) == ("descending", "ascending", 1)
    assert by_weight == [*(layer.name for layer in heavy), "pool"]
    assert turned == [*(layer.name for layer in heavy[::-1]), "pool"], "what has no figure stays last"
    assert by_time[0] == "features.1.conv"
    assert again == names


WIDE = """
const inside = (node) => node.closest(".scroll, nav, .skip, .unseen, #tip");
const out = all("body *").filter((node) => !inside(node) && node.getBoundingClientRect().right > w.innerWidth + 0.5);
return {page: d.documentElement.scrollWidth, out: out.slice(0, 5).map((node) => node.outerHTML.slice(0, 120)),
        plots: all(".plot").map((place) => [place.clientWidth, place.firstChild.getBoundingClientRect().width])};
"""


def test_a_phone_needs_no_sideways_scrolling(tmp_path: Path) -> None:
    long = StageRow(
        index=7, kind="k" * 60, title="a_title_without_a_place_to_break_" * 4, settings={"x" * 80: "y" * 90}
    )
    report = example_report()
    found, complaints, _ = browse(page(stages=(*report.stages, long), warnings=("w" * 90,)), WIDE, tmp_path, PHONE)
    assert complaints == []
    assert found["out"] == []
    assert found["page"] == PHONE
    assert all(width == drawn for width, drawn in found["plots"])


CONTRAST = """
const button = d.getElementById("theme");
while (d.documentElement.dataset.theme !== THEME) button.click();
const canvas = d.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (text) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (color) => {
  const [r, g, b] = color.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const color = rgba(w.getComputedStyle(node).backgroundColor);
    if (color[3] === 255) return color.slice(0, 3);
  }
  return [255, 255, 255];
};
const seen = new Map();
for (const node of all("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || node.closest("script, [hidden], noscript, .unseen")) continue;
  const style = w.getComputedStyle(node);
  const color = node.closest("svg") ? style.fill : style.color;
  const [a, b] = [light(rgba(color).slice(0, 3)), light(behind(node))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  const name = `${node.tagName}.${node.getAttribute("class") ?? ""} ${color}`;
  if (!seen.has(name) || seen.get(name) > ratio) seen.set(name, ratio);
}
return {ground: w.getComputedStyle(d.body).backgroundColor, dark: light(behind(d.body)) < 0.2, kinds: seen.size,
        faint: [...seen].filter(([, ratio]) => ratio < 4.5)};
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground_in_both_themes(tmp_path: Path, theme: str) -> None:
    found, complaints, _ = browse(page(), CONTRAST.replace("THEME", json.dumps(theme)), tmp_path)
    assert complaints == []
    assert found["dark"] == (theme == "dark")
    assert found["kinds"] > 30
    assert found["faint"] == []


NAMED = """
const label = (node) => node.getAttribute("aria-label") || d.getElementById(node.getAttribute("aria-labelledby"));
return {
  images: all("img").filter((node) => !node.alt).length,
  heads: all("th").filter((node) => !node.scope).length,
  tables: all("table").filter((node) => !node.caption?.textContent).length,
  drawings: all("svg").filter((node) => !label(node) || node.getAttribute("role") !== "group").length,
  points: all(".target").filter((node) => !label(node) || node.getAttribute("role") !== "img").length,
  regions: all("[role=region], section, nav").filter((node) => !label(node)).length,
  ids: all("[id]").length - new Set(all("[id]").map((node) => node.id)).size,
  levels: all("h1, h2, h3, h4").map((node) => Number(node.tagName[1])),
  jumps: all("nav a").filter((node) => !d.querySelector(node.getAttribute("href"))).length,
};
"""


def test_a_screen_reader_is_told_what_everything_is(tmp_path: Path) -> None:
    found, _, _ = browse(page(), NAMED, tmp_path)
    levels = found.pop("levels")
    assert set(found.values()) == {0}, found
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_hostile_names_reach_the_charts_as_text(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\">'\"</script>"
    row = example_report().tiers[0]
    layers = tuple(layer.model_copy(update={"name": hostile + layer.name}) for layer in row.layers)
    row = row.model_copy(
        update={"tier": hostile, "layers": layers, "baseline": BASELINE.model_copy(update={"name": hostile})}
    )
    report: Report = example_report(tiers=(row,))
    script = """
    all(".target").forEach((node) => node.focus());
    const told = all(".target").some((node) => node.dataset.tip.startsWith("<img src=x"));
    return {title: d.title, images: all("img").length, tip: told};
    """
    found, complaints, _ = browse(to_html(report), script, tmp_path)
    assert complaints == []
    assert found == {"title": "digits: edgeopt report", "images": 2, "tip": True}
