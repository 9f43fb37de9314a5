"""Entry point of the files in harnesses/: atheris with libFuzzer's command line, in one child process.

Folders on the command line hold seeds and are only read: seeds are reviewed text, libFuzzer's units are bytes. New
inputs and findings go to ``out/``, or the folder in HVFUZZ_OUT. Files on the command line are each run once, as in
libFuzzer.
"""

import mmap
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from hvfuzz.bugs import BugError, find_bug
from hvfuzz.campaign.findings import FindingStore, record_of
from hvfuzz.campaign.forked_target import ORACLE, ForkedTarget
from hvfuzz.campaign.internal_error import EXIT_BAD_INPUT, EXIT_INTERNAL, record_internal_error
from hvfuzz.campaign.memory_limit import limit_memory
from hvfuzz.campaign.program_files import ProgramFileError
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.seed_corpus import passed_over, seed_bytes
from hvfuzz.campaign.visible_text import prepare_streams, print_error, visible
from hvfuzz.campaign.workers.child_process import die_with_parent, signal_name
from hvfuzz.campaign.workers.libfuzzer_flags import HarnessFlags, flags_help, parse_flags
from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.current_program import CurrentProgram
from hvfuzz.engines.engine import BudgetSpent, EngineError, Job, Progress, Session
from hvfuzz.guest.format.binary import decode
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.harness import find_harness
from hvfuzz.targets.pairs.sampled_target import target_of

ENDED: Final = 0
FOUND: Final = 1
"""Bytes of the shared memory."""


class _Shared:
    """What the process that fuzzes shares with the one that waits for it."""

    def __init__(self) -> None:
        self.program: Final = CurrentProgram.create()
        self._flags: Final = mmap.mmap(-1, 2)

    def set(self, flag: int) -> None:
        """Set a flag for both processes."""
        self._flags[flag] = 1

    def has(self, flag: int) -> bool:
        """Whether a flag is set."""
        return bool(self._flags[flag])


def _tell(finding: Finding, program: Program, bug: str | None, progress: Progress, store: FindingStore) -> None:
    """Save a finding, and print a line for it."""
    record = record_of(finding, program, bug, progress.runs, progress.seconds, "a harness")
    try:
        place = f"saved to {store.save(record, program)}"
    except OSError as error:
        place = f"cannot write {error.filename}: {error.strerror}; the program is:\n{render(program)}"
    print(visible(f"hvfuzz: FINDING {finding.identity}: {finding.message}\n  {place}"), file=sys.stderr, flush=True)


class _TerminalSink:
    """Sink that saves findings and prints a line for each; libFuzzer prints the progress."""

    def __init__(self, store: FindingStore, bug: str | None, state: _Shared) -> None:
        self.store: Final = store
        self.bug: Final = bug
        self.state: Final = state
        self.broken = 0
        self.last = Progress(0, 0, 0.0, 0, 0, 0.0)
        self.signal = 0

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        self.state.set(FOUND)
        _tell(finding, program, self.bug, progress, self.store)

    def broke(self, error: Exception, program: Program) -> None:
        self.broken += 1
        print(f"hvfuzz: internal error in this program:\n{render(program)}", file=sys.stderr)
        print_error(record_internal_error(error))

    def progress(self, progress: Progress) -> None:
        self.last = progress

    def ended(self) -> int:
        """Print the final figures and return the exit status."""
        last = self.last
        figures = f"{quantity(last.runs, 'program')}, {quantity(last.ops, 'op')} in {last.seconds:.1f} s"
        if self.broken:
            figures += f"; {quantity(self.broken, 'internal error')}, see above"
        print(f"hvfuzz: ran {figures}", file=sys.stderr, flush=True)
        self.state.set(ENDED)
        if self.signal:
            return 128 + self.signal
        if self.state.has(FOUND):
            return 1
        return EXIT_INTERNAL if self.broken else 0


def _fuzz(harness: str, flags: HarnessFlags, paths: list[Path], out: Path, bug: str | None, state: _Shared) -> int:
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise EngineError(f"{missing[0]}: no such file or folder")
    # The session enforces the limits: libFuzzer would exit without reporting the findings. With -runs=0, libFuzzer
    # runs the seeds only.
    replay = flags.runs == 0 or (bool(paths) and all(path.is_file() for path in paths))
    engine = load_engine("replay" if replay else "atheris")
    planted = None if bug is None else find_bug(bug)
    passed: list[ProgramFileError] = []
    with target_of(find_harness(harness), planted) as target:
        seeds = seed_bytes(paths, target.catalogue, passed)
        if (notice := passed_over(passed)) is not None:
            print_error(f"warning: {notice}")
        job = Job(
            find_harness(harness),
            seeds,
            out / "corpus" / harness,
            out / "engine",
            seed=flags.seed,
            seconds=flags.seconds,
            runs=flags.runs or None,
            arguments=flags.passed_on,
        )
        sink = _TerminalSink(FindingStore(out / "findings"), bug, state)
        session = Session(target, job, sink, state.program)

        def stop(number: int) -> None:
            sink.signal = number
            session.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: stop(number))
        with suppress(BudgetSpent):
            engine.fuzz(job, session)
        sink.progress(session.progress())
        return sink.ended()


def _run(harness: str, flags: HarnessFlags, paths: list[Path], out: Path, bug: str | None, state: _Shared) -> int:
    """Fuzz in this process; returns the exit status."""
    try:
        return _fuzz(harness, flags, paths, out, bug, state)
    except (BugError, EngineError, ProgramFileError) as error:
        print_error(str(error))
        status = EXIT_BAD_INPUT
    except OSError as error:
        print_error(f"{error.filename or 'current folder'}: {error.strerror}")
        status = EXIT_BAD_INPUT
    except Exception as error:  # not Python's default status 1, which means a finding
        print_error(record_internal_error(error))
        status = EXIT_INTERNAL
    state.set(ENDED)
    return status


def _wait(child: int, out: Path, bug: str | None, state: _Shared) -> int:
    """Wait for the process that fuzzes, pass signals on to it, and return the exit status.

    If it ended in the middle of a program, that program is a finding.
    """

    def pass_on(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if state.has(ENDED):
        return 1 if code == 0 and state.has(FOUND) else code if code >= 0 else 128 - code
    how = f"was killed by {signal_name(-code)}" if code < 0 else f"exited with status {code}"
    data = state.program.read()
    if data is None:
        print_error(f"the process that fuzzes {how} before it had finished")
        return int(state.has(FOUND)) or EXIT_INTERNAL
    with ForkedTarget(None if bug is None else find_bug(bug)) as target:
        program = decode(data, target.catalogue)
        findings = target.run(program).findings
    rule = signal_name(-code) if code < 0 else f"exit:{code}"
    finding = Finding(ORACLE, rule, "unknown", f"the process {how} while it ran this program", 0)
    deadly = next((each for each in findings if each.oracle == ORACLE), finding)
    _tell(deadly, program, bug, Progress(0, 0, 0.0, 0, 0, 0.0), FindingStore(out / "findings"))
    print_error(f"ended early: the process that fuzzes {how}")
    return 1


def main(harness: str, argv: Sequence[str]) -> None:
    """Fuzz `harness`. Arguments that begin with "-" are flags of libFuzzer; the others are seed files or folders.

    HVFUZZ_BUG plants a bug; HVFUZZ_OUT names the output folder. The exit status is 0 without findings, 1 with
    findings, 2 for bad input, 70 for an internal error, and 130 or 143 after SIGINT or SIGTERM.

    The fuzzing is done in a child process: whatever ends it, this one still prints a last line and has the status.
    """
    prepare_streams()
    limit_memory()
    arguments = argv[1:]
    try:
        flags = parse_flags([argument for argument in arguments if argument.startswith("-")])
        out = Path(os.path.realpath(os.environ.get("HVFUZZ_OUT", "out")))
    except EngineError as error:
        print_error(str(error))
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        print_error(f"{error.filename or 'current folder'}: {error.strerror}")
        sys.exit(EXIT_BAD_INPUT)
    if flags.help:
        print(flags_help())
        sys.exit(0)
    paths = [Path(argument) for argument in arguments if not argument.startswith("-")]
    bug = os.environ.get("HVFUZZ_BUG")
    state = _Shared()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        sys.exit(_run(harness, flags, paths, out, bug, state))
    status = _wait(child, out, bug, state)
    sys.stderr.flush()
    os._exit(status)  # what runs at the exit of a process has run in the child
