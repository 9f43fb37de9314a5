"""Entry point of the files in harnesses/: one atheris process with libFuzzer's command line, without a supervisor.

Folders on the command line hold seeds and are only read: seeds are reviewed text, libFuzzer's units are bytes. New
inputs and findings go to ``out/``, or the folder in HVFUZZ_OUT. Files on the command line are each run once, as in
libFuzzer.
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from hvfuzz.bugs import BugError, find_bug
from hvfuzz.campaign.findings import FindingStore, record_of
from hvfuzz.campaign.internal_error import EXIT_BAD_INPUT, EXIT_INTERNAL, record_internal_error
from hvfuzz.campaign.program_files import ProgramFileError
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.seed_corpus import passed_over, seed_bytes
from hvfuzz.campaign.visible_text import prepare_streams, print_error, visible
from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.engine import BudgetSpent, EngineError, Job, Progress, Session
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import find_harness

ALTERNATIVES: Final = {
    "-merge": "hvfuzz corpus prune",
    "-fork": "hvfuzz fuzz --workers",
    "-jobs": "hvfuzz fuzz --workers",
    "-workers": "hvfuzz fuzz --workers",
    "-minimize_crash": "hvfuzz minimise",
    "-cleanse_crash": "hvfuzz minimise",
}
"""libFuzzer flags that re-execute the binary, which fails under Python -> the hvfuzz command to use instead."""


class _TerminalSink:
    """Sink that saves findings and prints a line for each; libFuzzer prints the progress."""

    def __init__(self, store: FindingStore, bug: str | None) -> None:
        self.store: Final = store
        self.bug: Final = bug
        self.found_any = False
        self.last = Progress(0, 0, 0.0, 0, 0, 0.0)
        self.signal = 0

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        self.found_any = True
        record = record_of(finding, program, self.bug, progress.runs, progress.seconds)
        try:
            place = f"saved to {self.store.save(record, program)}"
        except OSError as error:
            place = f"cannot write {error.filename}: {error.strerror}; the program is:\n{render(program)}"
        print(visible(f"hvfuzz: FINDING {finding.identity}: {finding.message}\n  {place}"), file=sys.stderr, flush=True)

    def broke(self, error: Exception, program: Program) -> None:
        print(f"hvfuzz: internal error in this program:\n{render(program)}", file=sys.stderr, flush=True)

    def progress(self, progress: Progress) -> None:
        self.last = progress

    def ended(self) -> int:
        """Print the final figures and return the exit status."""
        last = self.last
        figures = f"{quantity(last.runs, 'program')}, {quantity(last.ops, 'op')} in {last.seconds:.1f} s"
        print(f"hvfuzz: ran {figures}", file=sys.stderr)
        return 128 + self.signal if self.signal else int(self.found_any)


def _number(flags: list[str], name: str) -> float | None:
    """Remove ``-name=N`` from `flags` and return N, if the flag is present and N is positive."""
    for flag in flags:
        if flag.startswith(f"-{name}=") and flag.partition("=")[2].replace(".", "", 1).isdigit():
            value = float(flag.partition("=")[2])
            if value > 0:
                flags.remove(flag)
                return value
    return None


def _fuzz(harness: str, flags: list[str], paths: list[Path], out: Path, bug: str | None) -> int:
    for flag in flags:
        if flag.partition("=")[0] in ALTERNATIVES and not flag.endswith("=0"):
            raise EngineError(f"{flag} is not supported; use: {ALTERNATIVES[flag.partition('=')[0]]}")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise EngineError(f"{missing[0]}: no such file or folder")
    # The session enforces these limits: libFuzzer would exit without reporting the findings.
    seconds, runs, seed = _number(flags, "max_total_time"), _number(flags, "runs"), _number(flags, "seed")
    replay = bool(paths) and all(path.is_file() for path in paths)
    engine = load_engine("replay" if replay else "atheris")
    planted = None if bug is None else find_bug(bug)
    passed: list[ProgramFileError] = []
    with EmulatedTarget(planted) as target:
        seeds = seed_bytes(paths, target.catalogue, passed)
        if (notice := passed_over(passed)) is not None:
            print_error(f"warning: {notice}")
        job = Job(
            find_harness(harness),
            seeds,
            out / "corpus" / harness,
            out / "engine",
            seed=int(seed or 0),
            seconds=seconds,
            runs=None if runs is None else int(runs),
            arguments=flags,
        )
        sink = _TerminalSink(FindingStore(out / "findings"), bug)
        session = Session(target, job, sink)

        def stop(number: int) -> None:
            sink.signal = number
            session.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: stop(number))
        with suppress(BudgetSpent):
            engine.fuzz(job, session)
        sink.progress(session.progress())
        return sink.ended()


def main(harness: str, argv: Sequence[str]) -> None:
    """Fuzz `harness`. Arguments that begin with "-" go to libFuzzer; the others are seed files or folders.

    HVFUZZ_BUG plants a bug; HVFUZZ_OUT names the output folder. The exit status is 0 without findings, 1 with
    findings, 2 for bad input, 70 for an internal error, and 130 or 143 after SIGINT or SIGTERM.
    """
    flags = [argument for argument in argv[1:] if argument.startswith("-")]
    paths = [Path(argument) for argument in argv[1:] if not argument.startswith("-")]
    prepare_streams()
    try:
        out = Path(os.path.realpath(os.environ.get("HVFUZZ_OUT", "out")))
        status = _fuzz(harness, flags, paths, out, os.environ.get("HVFUZZ_BUG"))
    except (BugError, EngineError, ProgramFileError) as error:
        print_error(str(error))
        status = EXIT_BAD_INPUT
    except OSError as error:
        print_error(f"{error.filename or 'current folder'}: {error.strerror}")
        status = EXIT_BAD_INPUT
    except Exception as error:  # not Python's default status 1, which means a finding
        print_error(record_internal_error(error))
        status = EXIT_INTERNAL
    sys.exit(status)
