"""The one way from the commands to standard output and standard error.

Text from data may hold anything: nothing but what prints, and what the stream can encode, reaches a terminal.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from hvfuzz.campaign.visible_text import shell_line, visible

MIN_WIDTH: Final = 30
MIN_HEIGHT: Final = 12
"""Size of the smallest terminal that a view is drawn on; a smaller one gets lines."""
CUT: Final = "\N{HORIZONTAL ELLIPSIS}"
"""What rich puts at the end of text that it cuts."""
MAX_SIZE: Final = 10_000
"""Most columns or lines that a terminal may claim to have."""


def _environment() -> Mapping[str, str]:
    """The environment, without COLUMNS and LINES that are no size: rich would print nothing, or fail."""
    environment = dict(os.environ)
    for name in ("COLUMNS", "LINES"):
        value = environment.get(name, "")
        if not (value.isascii() and value.isdigit() and 0 < int(value[:9]) <= MAX_SIZE):
            environment.pop(name, None)
    return environment


class Screen(Console):
    """A console on standard output or, with `stderr`, on standard error, that shows what does not print as escapes."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        # An emoji code (":bug:") in a path is a part of its name.
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, highlight=False, emoji=False, _environ=_environment())

    @property
    def draws(self) -> bool:
        """Whether this is a terminal on which a view of several lines can be drawn anew."""
        big = self.width >= MIN_WIDTH and self.height >= MIN_HEIGHT
        return big and self.is_terminal and not self.is_dumb_terminal

    @property
    def ascii_only(self) -> bool:
        """Whether the stream has no line-drawing characters."""
        return self.options.ascii_only

    def render_str(self, text: str, **settings: Any) -> Text:
        """Escape before the layout, so that widths are right."""
        return super().render_str(self._fit(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape what came as a `Text`, too."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(self._fit(text.replace(CUT, "~") if self.ascii_only else text), style)

    def _fit(self, text: str) -> str:
        """`text` with escapes for what does not print, and for what the stream cannot encode."""
        text = visible(text)
        return text if text.isascii() else text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def on_broken_pipe(self) -> None:
        """The reader of the output has gone. The default is status 1, which means a finding here."""
        raise BrokenPipeError

    def status(self, status: RenderableType, **settings: Any) -> Status:
        """A spinner that the stream can show."""
        return super().status(status, **{"spinner": "line" if self.ascii_only else "dots", **settings})


def write_text(text: str, *, end: str = "\n", stderr: bool = False) -> None:
    """Write text of several lines to standard output or, with `stderr`, to standard error."""
    print(visible(text), end=end, file=sys.stderr if stderr else sys.stdout, flush=stderr)


def write_json(document: Any) -> None:
    """Write a JSON document as one line of ASCII."""
    print(json.dumps(document), flush=True)


def command_line(*words: str | Path) -> str:
    """The line by which the user can run ``hvfuzz words``, started in the same way as this process."""
    return shell_line([*_program(), *map(str, words)], getattr(sys.stdout, "encoding", None) or "utf-8")


def _program() -> list[str]:
    started = sys.argv[0]
    if Path(started).name == "__main__.py":
        return [sys.executable, "-m", "hvfuzz.cli"]
    found = shutil.which("hvfuzz")
    if os.sep not in started or (found is not None and os.path.realpath(found) == os.path.realpath(started)):
        return ["hvfuzz"]
    return [started]


def short_path(path: Path) -> str:
    """`path` relative to the current folder if it lies below it, else absolute; never like an option."""
    try:
        relative = str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
    return f"./{relative}" if relative.startswith("-") else relative
