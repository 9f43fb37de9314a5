"""The command line, `hvfuzz COMMAND`.

Exit status: 0 for success, 1 for findings or a failed check, 2 for bad input (with a one-line message), 70 for an
internal error, 128 + N after signal N.
"""

import importlib
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final, NoReturn

import click

import hvfuzz
from hvfuzz.campaign.internal_error import EXIT_BAD_INPUT, EXIT_INTERNAL, EXIT_PIPE, record_internal_error
from hvfuzz.campaign.memory_limit import limit_memory
from hvfuzz.campaign.visible_text import prepare_streams, print_error

COMMANDS: Final = MappingProxyType(
    {
        "fuzz": "fuzz",
        "repro": "repro",
        "explain": "inspect.explain",
        "minimise": "minimise",
        "show": "inspect.show",
        "walk": "inspect.walk",
        "cost": "inspect.cost",
        "bugs": "bugs",
        "corpus": "corpus",
        "bench": "bench.bench",
        "reference": "checks.reference_check",
        "doctor": "checks.doctor",
        "abi": "abi",
    }
)
"""Command -> its module below `hvfuzz.cli`, in the order in which `--help` lists them."""
EXAMPLES: Final = """\b
hvfuzz fuzz hypercalls --time 60           fuzz for a minute, with a live view
hvfuzz fuzz --bug xsa-212 --time 60        see whether a planted bug is found
hvfuzz bugs list                           list the planted bugs
hvfuzz doctor                              check that hvfuzz works on this machine
hvfuzz repro crashes/host_memory--null--sched.poll@xsa-221/program.hvp --trace
"""
EXIT_STATUS: Final = (
    ("0", "success, no findings"),
    ("1", "findings, or a failed check"),
    ("2", "bad input"),
    ("70", "internal error of hvfuzz"),
    ("130", "interrupted by Ctrl-C"),
)


class _Commands(click.Group):
    """The commands, each imported only when it is called, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, 1, 0.5)
            hint = f", did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"hvfuzz.cli.{COMMANDS[cmd_name]}").command
        return command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write_text(EXAMPLES)
        with formatter.section("Exit status"):
            formatter.write_dl(EXIT_STATUS)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hvfuzz.__version__, "-V", "--version", prog_name="hvfuzz")
def cli() -> None:
    """Fuzz an emulated hypervisor with hostile guest programs.

    Oracles report every way in which a guest reaches memory that is not its own, learns a secret, stops the host or
    breaks the hypercall contract.
    """


def _user_errors() -> tuple[type[Exception], ...]:
    """Exceptions whose message is for the user: bad input, or something missing on this machine."""
    from hvfuzz.bugs import BugError
    from hvfuzz.campaign.bench.mutants.generation import MutantError
    from hvfuzz.campaign.bench.trace_equality import TraceError
    from hvfuzz.campaign.findings import FindingFileError
    from hvfuzz.campaign.program_files import ProgramFileError
    from hvfuzz.campaign.workers.pool import PoolError
    from hvfuzz.engines.engine import EngineError
    from hvfuzz.references.reference import ReferenceError
    from hvfuzz.targets.harness import HarnessError

    return (
        BugError,
        ProgramFileError,
        FindingFileError,
        PoolError,
        TraceError,
        EngineError,
        ReferenceError,
        HarnessError,
        MutantError,
    )


def _is_for_the_user(error: Exception) -> bool:
    try:
        return isinstance(error, _user_errors())
    except Exception:  # a broken installation: what is imported there failed before, which is `error`
        return False


def _fail(message: str, status: int) -> NoReturn:
    print_error(message)
    sys.exit(status)


def _abandon_output() -> None:
    """Drop what cannot be written to standard output, so that the end of the interpreter does not try it again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place_of_errors() -> str:
    """What an error of the system is about if it names no file."""
    try:
        os.getcwd()
    except OSError:
        return "current folder"
    return "output"


def _run() -> None:
    """Run the command. Its output is written when this function ends, so that an error in that has its status."""
    try:
        if "_HVFUZZ_COMPLETE" in os.environ:
            cli.main(standalone_mode=False)  # shell completion
        # Not `cli.main` in general: on a broken pipe it exits with 1, which means a finding here.
        with cli.make_context("hvfuzz", sys.argv[1:]) as context:
            cli.invoke(context)
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def main() -> NoReturn:
    """Run a command; turn any exception into one line on standard error and an exit status."""
    prepare_streams()
    limit_memory()
    try:
        _run()
        sys.exit(0)
    except SystemExit as end:
        # On a broken pipe rich ends the process with 1, which means a finding here.
        sys.exit(EXIT_PIPE if isinstance(end.__context__, BrokenPipeError) else end.code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(EXIT_BAD_INPUT)
    except click.ClickException as error:
        message = error.format_message()
        if isinstance(error, click.UsageError):
            message = message[:1].lower() + message[1:].rstrip(".")
            if error.ctx is not None:
                message += f" (see {error.ctx.command_path} --help)"
        _fail(message, EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`hvfuzz abi | head`): end quietly, as if by SIGPIPE.
        _abandon_output()
        sys.exit(EXIT_PIPE)
    except OSError as error:
        if error.filename is None:
            _abandon_output()
        name = _place_of_errors() if error.filename is None else os.fsdecode(error.filename)
        _fail(f"{name}: {error.strerror or error}", EXIT_BAD_INPUT)
    except MemoryError:
        _fail("out of memory", EXIT_BAD_INPUT)
    except Exception as error:
        if _is_for_the_user(error):
            _fail(str(error), EXIT_BAD_INPUT)
        _fail(record_internal_error(error), EXIT_INTERNAL)
