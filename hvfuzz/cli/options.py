"""Options that several commands share, and the layout of their help."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from hvfuzz.engines.all_engines import ENGINES
from hvfuzz.engines.engine import Feedback
from hvfuzz.guest.format.scanner import shown

MAX_SEED: Final = 2**31 - 1
MAX_DIGITS: Final = 40
TEN_YEARS: Final = 10 * 365.25 * 86400
F = TypeVar("F", bound=Callable[..., Any])


class _Path(click.Path):
    """A path that is not empty: `Path` would take "" (often a shell's unset variable) for the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("a path cannot be empty.", param, ctx)
        return super().convert(value, param, ctx)


PATH: Final = _Path(path_type=Path)


def _number(text: Any) -> Any:
    """`text` as a number may be given: short, and in the digits of ASCII (Python takes those of any script)."""
    if isinstance(text, str) and not (text.isascii() and len(text) <= MAX_DIGITS and "_" not in text):
        raise click.BadParameter(f"{shown(text)!r} is not a valid number.")
    return text


class Whole(click.IntRange):
    """A range of whole numbers that calls itself a whole number in error messages."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_number(value), param, ctx)


class Real(click.FloatRange):
    """A range of real numbers that calls itself a number in error messages, without infinity and NaN."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a number; "nan" would pass every comparison with the limits, and "inf" is no number of seconds."""
        number = super().convert(_number(value), param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def seconds_range(least: float) -> Real:
    """Durations from `least` seconds to ten years, which no clock and no wait rejects."""
    return Real(min=least, max=TEN_YEARS)


def refuse_both(*options: str) -> None:
    """Raise UsageError if the command line has two of `options` (such as "--no-corpus")."""
    given = [option for option in options if _is_given(option)]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} contradict each other", click.get_current_context())


def refuse_without_effect(option: str, where: str) -> None:
    """Raise UsageError if the command line has `option`."""
    if _is_given(option):
        raise click.UsageError(f"{option} has no effect {where}", click.get_current_context())


def _is_given(option: str) -> bool:
    context = click.get_current_context()
    (name,) = (parameter.name for parameter in context.command.params if option in parameter.opts)
    return name is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


class _Option(click.Option):
    """An option whose help leaves out the range of its numbers; an error message names it."""

    def get_help_extra(self, ctx: click.Context) -> "click.types.OptionHelpExtra":
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


def option(*declarations: str, **settings: Any) -> Callable[[F], F]:
    """`click.option`, without the range in the help."""
    return click.option(*declarations, cls=_Option, **settings)


class _Examples:
    """Mixin for commands: `examples` are printed as the last section of --help."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples: Final = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                formatter.write_text("\b\n" + "\n".join(self.examples))


class Command(_Examples, click.Command):
    """A command with examples."""


class Group(_Examples, click.Group):
    """A group with examples; lists its commands in the order of their definition."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def json_option(what: str = "Print the result as one JSON object.") -> Callable[[F], F]:
    """--json, passed as `as_json`."""
    return option("--json", "as_json", is_flag=True, help=what)


def replay_bug_option(function: F) -> F:
    """--bug for commands that run one program file, passed as `bug`; see `hvfuzz.cli.repro.bug_for`."""
    described = (
        "Plant this bug; 'none' plants none. [default: the one that finding.json beside FILE, or its head, names]"
    )
    return option("--bug", metavar="NAME|FILE.py", help=described)(function)


def seed_option(what: str, default: int | None, maximum: int | None = MAX_SEED) -> Callable[[F], F]:
    """--seed, passed as `seed`."""
    return option(
        "--seed",
        metavar="N",
        type=Whole(0, maximum),
        default=default,
        show_default=default is not None,
        help=what,
    )


def workers_option(what: str = "Number of worker processes.") -> Callable[[F], F]:
    """--workers, passed as `workers`."""
    return option("--workers", metavar="N", type=Whole(1, 256), default=1, show_default=True, help=what)


def engine_option(function: F) -> F:
    """--engine, passed as `engine`; the command must check it with `load_engine`."""
    described = f"Engine that chooses the programs: {', '.join(ENGINES)}."
    return option("--engine", metavar="NAME", default="atheris", show_default=True, help=described)(function)


def feedback_option(function: F) -> F:
    """--feedback, passed as `feedback`."""
    return option(
        "--feedback",
        metavar="KIND",
        type=click.Choice([feedback.value for feedback in Feedback]),
        default=Feedback.STATE.value,
        show_default=True,
        help=f"Coverage that guides the atheris engine: {', '.join(Feedback)}.",
    )(function)


def corpus_option(what: str) -> Callable[[F], F]:
    """--corpus, which may be repeated; passed as `corpora`."""
    return option(
        "--corpus",
        "corpora",
        metavar="PATH",
        type=click.Path(path_type=Path, exists=True),
        multiple=True,
        help=what,
    )
