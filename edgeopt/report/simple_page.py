"""A page of text, tables and drawings in the report's style: one file, no script, no request to anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from edgeopt.report import markup

__all__ = ["simple_page", "table"]

STYLE = Path(__file__).parent / "page.css"


def simple_page(title: str, facts: str, sections: Iterable[tuple[str, str]], *, style: str = "") -> str:
    """`facts` is text under the title; each section is a heading (text) and its content (HTML)."""
    css = STYLE.read_text(encoding="utf-8") + style
    main = "\n".join(f"<section><h2>{escape(heading)}</h2>{content}</section>" for heading, content in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>\n{css}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1><p class="facts">{escape(facts)}</p></header>\n<main>\n{main}\n</main>\n'
        "</body>\n</html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """Cells are HTML, heads are text; the first column names its row."""
    named = (f'<th scope="col">{escape(text)}</th>' for text in heads)
    lines = (
        f'<tr><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>' for cells in rows
    )
    return markup.region(markup.table(named, lines, label), label, "card")
