"""The command line: `hvfuzz COMMAND`. Every command ends with 0, with 1 for a finding, or with 2 and one clear line."""

import importlib
import os
import sys
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final, NoReturn

import click

import hvfuzz
from hvfuzz.campaign.internal_error import EXIT_BAD_INPUT, EXIT_INTERNAL, record_internal_error

COMMANDS: Final = MappingProxyType(
    {
        "fuzz": "fuzz",
        "repro": "repro",
        "minimise": "minimise",
        "show": "inspect.show",
        "walk": "inspect.walk",
        "cost": "inspect.cost",
        "bugs": "bugs",
        "corpus": "corpus",
        "bench": "bench.bench",
        "reference": "reference_check",
        "doctor": "doctor",
        "abi": "abi",
    }
)
"""Command -> its module under `hvfuzz.cli`; `--help` lists them in this order."""
EXAMPLES: Final = """\b
Examples:
  hvfuzz fuzz hypercalls --time 60           fuzz for a minute with a live view
  hvfuzz fuzz --bug xsa-212 --time 60        does the fuzzer find this planted bug?
  hvfuzz repro out/findings/*/program.hvp    does a finding still happen?
  hvfuzz bugs list                           the planted vulnerabilities
  hvfuzz doctor                              does everything work on this machine?
"""


class _Commands(click.Group):
    """The commands, each imported only when it is called: `--help` stays quick."""

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


@click.group(cls=_Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(hvfuzz.__version__, "-V", "--version", prog_name="hvfuzz")
def cli() -> None:
    """Fuzz an emulated hypervisor, with oracles for every way in which a guest could escape."""


def _user_errors() -> tuple[type[Exception], ...]:
    """The exceptions whose message is for the user: what they gave us is wrong, or the machine refuses."""
    from hvfuzz.bugs import BugError
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
    )


def _fail(message: str, status: int) -> NoReturn:
    sys.stdout.flush()
    print(f"hvfuzz: {message}", file=sys.stderr)
    sys.exit(status)


def main() -> NoReturn:
    """Entry point: runs a command and turns what it raises into one line and an exit status."""
    try:
        if "_HVFUZZ_COMPLETE" in os.environ:
            cli.main(standalone_mode=False)  # A shell asks how a line could go on.
        # Not by `main` otherwise: it ends with 1, which means a finding here, when a reader of our output has left.
        with cli.make_context("hvfuzz", sys.argv[1:]) as context:
            cli.invoke(context)
        sys.exit(0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(EXIT_BAD_INPUT)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            _fail(f"{error.format_message()} (see {error.ctx.command_path} --help)", EXIT_BAD_INPUT)
        _fail(error.format_message(), EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output is gone (`hvfuzz show … | head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror}", EXIT_BAD_INPUT)
    except Exception as error:
        if isinstance(error, _user_errors()):
            _fail(str(error), EXIT_BAD_INPUT)
        _fail(record_internal_error(error), EXIT_INTERNAL)
