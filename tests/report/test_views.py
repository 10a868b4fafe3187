"""Markdown and terminal: the same figures, in what each can show."""

from __future__ import annotations

import io
import re

from example_report import example_report, example_row
from rich.console import Console, Group

from edgeopt.gate import check
from edgeopt.report import Report, StageRow, Verdict
from edgeopt.report.figures import columns_of, count, describe, duration, histories, points, summary
from edgeopt.report.markdown import to_markdown
from edgeopt.report.terminal import render_artifacts, to_terminal

FIGURES = ("18.2 KB", "98.06 %", "0.56 pt", "0.0287 ms", "1.44x", "2.05 KB")


MEMORY_COLUMNS = 3


def gated() -> Report:
    report = example_report(limits={"mcu": {"size": "20KB", "drop": "5pt"}, "all": {"accuracy": "90%"}})
    return report.model_copy(update={"gate": tuple(check(report, report.limits))})


def on_screen(renderable: object, width: int = 80) -> str:
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    screen.print(renderable)
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_markdown_and_terminal_show_the_figures() -> None:
    for text in (to_markdown(gated()), on_screen(Group(*to_terminal(gated())))):
        for figure in FIGURES:
            assert figure in text
        assert "All 5 limits hold" in text


def test_changed_answers_are_summed_up_with_the_classes_that_lost_most() -> None:
    assert "- mcu: 4 of 360: 2 lost, 1 gained; most lost: 8 (2)" in to_markdown(gated())


def test_the_third_outcome_of_a_gate_has_its_own_word() -> None:
    unsure = Verdict(tier="mcu", limit="drop", found=1.0, allowed=1.0, ok=True, uncertain=True, sentence="so so")
    report = gated().model_copy(update={"gate": (unsure,)})
    assert summary(report) == (True, "1 of 1 limits cannot be told")
    assert "**cannot tell**" in to_markdown(report)
    assert "cannot tell  mcu" in on_screen(Group(*to_terminal(report)))


def test_the_terminal_report_fits_80_columns() -> None:
    long = example_row("mcu").model_copy(update={"tier": "a-tier-with-quite-a-long-name-of-its-own"})
    report = gated().model_copy(update={"tiers": (long, *gated().tiers), "name": "n" * 200})
    lines = on_screen(Group(*to_terminal(report))).splitlines()
    assert max(map(len, lines)) <= 80
    table = on_screen(render_artifacts(report))
    assert "..." not in table
    assert "…" not in table


def test_the_memory_of_the_c_program_is_drawn_with_its_peak() -> None:
    lines = to_markdown(example_report()).splitlines()
    (peak,) = [line for line in lines if "peak |" in line]
    assert peak.startswith("| features.1.conv | 2,264 | " + 20 * "█")
    (other,) = [line for line in lines if line.startswith("| features.0.conv | 1,088")]
    assert other.count("█") == 10
    assert "flash 17.8 KB · RAM 2.5 KB · 428 k instructions · 3 mismatches (cortex-m4:" in "\n".join(lines)
    assert "The C program" not in to_markdown(example_report(tiers=(example_row("gpu"),)))


def test_names_are_not_markup_on_the_terminal() -> None:
    report = example_report(name="[red]x[/]", stages=(StageRow(index=1, kind="k", title="[bold]t[/bold]"),))
    text = on_screen(Group(*to_terminal(report)))
    assert "[red]x[/]" in text
    assert "[bold]t[/bold]" in text


def test_markdown_tables_keep_their_columns_whatever_a_name_holds() -> None:
    report = example_report(
        name="a | b\n# <script>`x`",
        tiers=(
            example_row("mcu", precision="int8 | x", memory_timeline=[{"layer": "a | b\n`c`", "bytes": 5}]),
            example_row("gpu"),
        ),
        command="echo `id` | sh\n\n# new",
    )
    text = to_markdown(report)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert columns == {len(columns_of(report)) + 2, MEMORY_COLUMNS + 1}
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert sum(line.startswith("# ") for line in text.splitlines()) == 1


def test_columns_that_nothing_was_measured_for_are_left_out() -> None:
    row = example_row("mcu", latency_ms=None, speedup=None, agreement=None)
    headings = [column.heading for column in columns_of(example_report(tiers=(row,)))]
    assert "Size" in headings
    assert not {"Latency", "Speedup", "Agreement"} & set(headings)


def test_how_figures_are_written() -> None:
    assert [count(n) for n in (0, 9_216, 11_418, 295_152, 4_811_776)] == ["0", "9,216", "11.4 k", "295 k", "4.81 M"]
    assert [duration(s) for s in (0.04, 59.94, 83.6, 7_320)] == ["0.0 s", "59.9 s", "1 min 24 s", "2 h 2 min"]
    assert points(-0.001) == "0.00 pt"
    assert points(-0.5) == "-0.50 pt"


def test_settings_read_as_the_keys_of_the_recipe() -> None:
    settings = {"target": {"macs": "-27%"}, "epochs": 30, "layers": ["a", "b"], "plain": True, "none": None}
    assert dict(describe(settings)) == {
        "target.macs": "-27%",
        "epochs": "30",
        "layers": "a, b",
        "plain": "yes",
    }


def test_training_histories_are_found_wherever_they_are() -> None:
    rows = [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}]
    facts = {"history": rows, "finetune": {"history": rows}, "frozen": ["a"]}
    assert [(place, len(found)) for place, found in histories(facts)] == [("", 2), ("finetune", 2)]
    assert dict(describe(facts)) == {"frozen": "a"}
