"""Pieces of HTML that the sections of the page are made of. All text goes through `escape` here or where it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

__all__ = ["chip", "mark", "pairs", "plot", "region", "section", "table", "together", "warnings"]


def section(name: str, heading: str, content: str) -> str:
    """A part of the page with its own heading, or nothing without content."""
    if not content:
        return ""
    return f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{heading}</h2>{content}</section>'


def chip(text: str, style: str = "") -> str:
    return f'<span class="chip {style}">{escape(text)}</span>'


def mark(state: str) -> str:
    """The outcome of a verdict, told by a sign, a word and a colour."""
    sign, style = {"pass": ("✓", "pass"), "fail": ("✗", "fail")}.get(state, ("?", "unsure"))
    return f'<span class="mark {style}">{sign} {escape(state)}</span>'


def pairs(items: Iterable[tuple[str, str]], style: str = "") -> str:
    """Names and values, as a list of definitions."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{together(escape(value))}</dd></div>" for name, value in items)
    return f'<dl class="pairs {style}">{lines}</dl>' if lines else ""


def warnings(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>' if items else ""


def together(text: str) -> str:
    """Numbers stay on one line with their units."""
    return re.sub(r"(\d) (%|(?:pt|ms|dB|[KMG]?B)\b)", "\\1&nbsp;\\2", text)


def plot(kind: str, title: str, figures: dict[str, Any]) -> str:
    """A place where the page's script draws a chart of `kind`, see page.js."""
    data = escape(json.dumps(figures, separators=(",", ":"), allow_nan=False))
    return f'<div class="plot" data-kind="{kind}" data-title="{escape(title)}" data-figures="{data}"></div>'


def region(content: str, label: str, style: str = "") -> str:
    """What may be wider or higher than its place: it scrolls by itself, with the keyboard too."""
    return f'<div class="scroll {style}" role="region" aria-label="{escape(label)}" tabindex="0">{content}</div>'


def table(heads: Iterable[str], rows: Iterable[str], caption: str, style: str = "") -> str:
    """`heads` are th elements, `rows` tr elements; `caption` is for those who do not see what the table is."""
    return (
        f'<table class="{style}"><caption class="unseen">{escape(caption)}</caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
