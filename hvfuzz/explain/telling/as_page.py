"""An explanation as one HTML page that needs nothing else: no script, no other file."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from hvfuzz.explain.pictures.owner_map import owner_map
from hvfuzz.explain.pictures.path_drawing import draw_path
from hvfuzz.explain.pictures.svg import STYLE
from hvfuzz.explain.pictures.timeline import timeline
from hvfuzz.explain.telling.explanation import Explanation


def page(told: Explanation) -> str:
    """The document. What comes from the program is escaped; the pictures escape their own texts."""
    return _template().render(
        told=told,
        style=STYLE,
        timeline=timeline(told),
        owners=owner_map(told),
        paths=[draw_path(path) for path in told.paths],
    )


@cache
def _template() -> Template:
    loader = PackageLoader("hvfuzz.explain.telling", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html.j2")
