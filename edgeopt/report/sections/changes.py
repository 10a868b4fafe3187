"""Which answers changed between the float model and each artifact: classes lost and gained, and the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape

from edgeopt.report.figures import percent
from edgeopt.report.markup import chip, region, section, table
from edgeopt.report.report import Change, ClassChange, Report, Row

__all__ = ["changes"]

MOST_CLASSES = 12
MOST_PAIRS = 8


def changes(report: Report) -> str:
    """A card for each artifact whose answers were compared image by image."""
    cards = "".join(_card(row, report.pictures, n) for n, row in enumerate(report.tiers) if row.changed is not None)
    note = (
        '<p class="soft small">Beside the float model on the same test images: lost is right before and wrong now, '
        "gained the other way round.</p>"
    )
    return section("changes", "Changed answers", f'{note}<div class="grid">{cards}</div>' if cards else "")


def _card(row: Row, pictures: Mapping[str, str], n: int) -> str:
    return (
        f'<article class="card"><div class="top"><h3><span class="dot c{n % 6}" aria-hidden="true"></span>'
        f"{escape(row.tier)}</h3>{chip(_share(row))}</div>{_sums(row)}"
        f"{_classes(row)}{_pairs(row)}{_pictures(row, pictures)}</article>"
    )


def _share(row: Row) -> str:
    of = f" of {row.samples:,}" if row.samples else ""
    return f"{row.changed:,}{of} changed"


def _sums(row: Row) -> str:
    if not row.changed:
        return "<p>Every image is answered as the float model answers it.</p>"
    share = f" ({percent(row.changed / row.samples)})" if row.samples else ""
    lost, gained = sum(own.lost for own in row.classes), sum(own.gained for own in row.classes)
    told = f": {lost:,} lost, {gained:,} gained" if row.classes else ""
    return f"<p>{row.changed:,} {'answer' if row.changed == 1 else 'answers'} changed{share}{told}.</p>"


def _classes(row: Row) -> str:
    if not row.classes:
        return ""
    shown = row.classes[:MOST_CLASSES]
    most = max(max(own.lost, own.gained) for own in shown)
    heads = [f'<th scope="col">{heading}</th>' for heading in ("Class", "Lost", "Gained", "Of")]
    lines = [_class(own, most) for own in shown]
    rest = len(row.classes) - len(shown)
    more = f'<p class="soft small">and {rest:,} more classes</p>' if rest else ""
    return region(table(heads, lines, f"{row.tier}, classes lost and gained", "classes"), f"{row.tier}, classes") + more


def _class(own: ClassChange, most: int) -> str:
    lost, gained = (100 * value / max(1, most) for value in (own.lost, own.gained))
    return (
        f'<tr><th scope="row">{escape(own.name)}</th><td class="lost" style="--w:{lost:.1f}%">{own.lost:,}</td>'
        f'<td class="gained" style="--w:{gained:.1f}%">{own.gained:,}</td><td>{own.images:,}</td></tr>'
    )


def _pairs(row: Row) -> str:
    """What was taken for what, most often first."""
    found = Counter((change.before, change.after) for change in row.changes).most_common(MOST_PAIRS)
    items = "".join(f"<li>{escape(before)} → {escape(after)} <b>{times:,}</b></li>" for (before, after), times in found)
    return f'<ul class="became" aria-label="Float answer, then the artifact\'s">{items}</ul>' if items else ""


def _pictures(row: Row, pictures: Mapping[str, str]) -> str:
    shown = [(change, pictures[str(change.image)]) for change in row.changes if str(change.image) in pictures]
    items = "".join(_picture(change, picture) for change, picture in shown)
    return f'<ul class="pictures">{items}</ul>' if items else ""


def _picture(change: Change, picture: str) -> str:
    right = f", right is {change.right}" if change.right is not None else ""
    words = f"test image {change.image}: float says {change.before}, the artifact {change.after}{right}"
    state = "lost" if change.right == change.before else "gained" if change.right == change.after else ""
    return (
        f'<li class="{state}"><img src="{escape(picture)}" alt="{escape(words)}" title="{escape(words)}">'
        f'<span aria-hidden="true">{escape(change.before)} → {escape(change.after)}</span></li>'
    )
