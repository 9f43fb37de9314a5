"""The parts of which pictures are made."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

STYLE: Final = """
.pic { font: 13px system-ui, sans-serif; }
.pic text { fill: var(--ink, #1b1f24); }
.pic .mono { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12px; }
.pic .soft { fill: var(--soft, #57606a); }
.pic .lane { stroke: var(--line, #d0d7de); stroke-width: 1; }
.pic .box { fill: var(--box, #f6f8fa); stroke: var(--edge, #8c959f); }
.pic .wrong { fill: var(--bad, #ffebe9); stroke: var(--bad-edge, #cf222e); stroke-width: 2; }
.pic .arrow { stroke: var(--edge, #8c959f); fill: none; }
.pic .bad-ink { fill: var(--bad-edge, #cf222e); font-weight: 600; }
.pic .own0 { fill: #8250df; } .pic .own1 { fill: #1f77b4; } .pic .own2 { fill: #2ca02c; } .pic .own3 { fill: #b8860b; }
.pic .host { fill: #6e7781; } .pic .table { fill: #bf8700; } .pic .free { fill: var(--free, #eaeef2); }
.pic .device { fill: #d63384; } .pic .ring { fill: none; stroke: var(--bad-edge, #cf222e); stroke-width: 3; }
"""
"""Colours by class. A page may set the variables; a picture that stands alone has the light ones."""


def picture(width: int, height: int, title: str, parts: Iterable[str], *, alone: bool = False) -> str:
    """The SVG element, with `title` as its text alternative; `alone` puts the style into it."""
    style = f"<style>{STYLE}</style>" if alone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pic" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">{style}{"".join(parts)}</svg>'
    )


def box(x: float, y: float, width: float, height: float, kind: str = "box", tip: str = "") -> str:
    """A rectangle of a class, with a tip that shows on hovering."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    corner = 0 if kind not in ("box", "wrong") else 5
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{corner}" class="{kind}">'
    return f"{shape}{title}</rect>"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text that begins, ends or has its middle at x."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "lane") -> str:
    """A straight line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line with a head at its end; only for lines along an axis."""
    dx, dy = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    left = x2 - 6 * dx - 4 * dy, y2 - 6 * dy - 4 * dx
    right = x2 - 6 * dx + 4 * dy, y2 - 6 * dy + 4 * dx
    head = f'<path d="M{left[0]:g} {left[1]:g} L{x2:g} {y2:g} L{right[0]:g} {right[1]:g}" class="arrow"/>'
    return line(x1, y1, x2, y2, "arrow") + head
