"""Triage at the end of a campaign: each finding is replayed and minimised in a separate process."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from hvfuzz.bugs import Bug, BugError, find_bug
from hvfuzz.campaign.findings import PROGRAM, FindingStore, Record, bucket_name
from hvfuzz.campaign.forked_target import ForkedTarget
from hvfuzz.campaign.minimise.minimiser import minimise
from hvfuzz.campaign.program_files import ProgramFileError, read_program
from hvfuzz.campaign.workers.child_process import Channel, exit_with_error, launch_child, start_child
from hvfuzz.campaign.workers.pool import END_SECONDS
from hvfuzz.campaign.workers.worker_handle import Discovery
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.explain.explainer import explain, explain_without_run
from hvfuzz.explain.telling.as_text import first_paragraph, lines
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.pairs.sampled_target import target_that_shows
from hvfuzz.targets.target import Target

SECONDS_EACH: Final = 10.0
SECONDS_ALL: Final = 60.0
"""Minimisation budget for one finding, and for all findings of a campaign per worker."""
EXPLANATION: Final = "explanation.txt"
"""The file beside a reproducer that explains it."""
GRACE_SECONDS: Final = 30.0
"""Kill a confirming process that runs this much longer than its minimisation budget."""


class ReportedFinding(NamedTuple):
    """A finding in the final report. The fields are keys of `report.json`."""

    identity: str
    message: str
    file: str | None
    """Path of the reproducer; None if it could not be written."""
    text: str
    """The reproducer in text form."""
    runs: int
    seconds: float
    """Programs run and time spent until it was found."""
    ops: int
    """Number of ops in the reproducer."""
    confirmed: bool | None
    """Whether a second process reproduced it; None if it was not replayed."""
    summary: tuple[str, ...] = ()
    """What it means: a title that begins with the severity, and lines of a paragraph; empty if it was not replayed."""


class ConfirmJob(NamedTuple):
    """The configuration of a confirming process."""

    discovery: dict[str, Any]
    bug: str | None
    out: str
    seconds: float
    deadly: bool
    """Whether the program may end the process that runs it."""


def unconfirmed(discovery: Discovery, bug: str | None, out: Path) -> ReportedFinding:
    """Report a finding without replaying it; saves the program if the worker died before it did."""
    program = parse(discovery.text, catalogue(ABI))
    ops = len(program.ops)
    file = discovery.file
    if file is None:
        record = Record(discovery.identity, discovery.message, bug, discovery.runs, discovery.seconds, False, ops)
        with suppress(OSError):
            file = str(FindingStore(out / "findings").save(record, program))
    return ReportedFinding(
        discovery.identity,
        discovery.message,
        file,
        discovery.text,
        discovery.runs,
        discovery.seconds,
        ops,
        None,
    )


def _find(program: Program, identity: str, target: Target) -> Finding | None:
    return next((finding for finding in target.run(program).findings if finding.identity == identity), None)


def _target(job: ConfirmJob, bug: Bug | None) -> Target:
    return ForkedTarget(bug) if job.deadly else target_that_shows(job.discovery["identity"], bug)


def confirm(job: ConfirmJob, proceed: Callable[[], bool]) -> ReportedFinding:
    """Replay the program, minimise it until `proceed` returns False, and save the result in its bucket."""
    discovery = Discovery(**job.discovery)
    store = FindingStore(Path(job.out) / "findings")
    identity = discovery.identity
    bug = None if job.bug is None else find_bug(job.bug)
    with _target(job, bug) as target:
        program = found = parse(discovery.text, target.catalogue)
        finding = _find(program, identity, target)
        message = discovery.message if finding is None else finding.message
        stale = False
        if finding is not None:
            program = minimise(program, identity, target, seconds=job.seconds, proceed=proceed)
            if program != found:
                message = (_find(program, identity, target) or finding).message
            # The bucket may hold a program of an earlier campaign that no longer reproduces on this build.
            kept = store.root / bucket_name(identity, job.bug) / PROGRAM
            try:
                old = read_program(kept, target.catalogue) if kept.exists() else found
                stale = old != found and _find(old, identity, target) is None
            except ProgramFileError:
                stale = True
        confirmed = finding is not None
        ops = len(program.ops)
        record = Record(identity, message, job.bug, discovery.runs, discovery.seconds, confirmed, ops)
        file = discovery.file
        try:
            path = store.save(record, program, replace=stale)
            file = str(path)
            program = read_program(path, target.catalogue)  # the bucket may have held a better one
        except (OSError, ProgramFileError):
            pass  # the parent receives the text
    summary = (
        _explained(program, bug, identity, job.deadly, message, None if file is None else Path(file))
        if confirmed
        else ()
    )
    text = render(program)
    return ReportedFinding(
        identity, message, file, text, discovery.runs, discovery.seconds, len(program.ops), confirmed, summary
    )


def _explained(
    program: Program, bug: Bug | None, identity: str, deadly: bool, message: str, file: Path | None
) -> tuple[str, ...]:
    """The first paragraph of the explanation; all of it is written beside the program in `file`."""
    if deadly:
        oracle, rule, operation = identity.split("/", 2)
        at = max(len(program.ops) - 1, 0)
        told = explain_without_run(program, bug, [Finding(oracle, rule, operation, message, at)])
    else:
        found = explain(program, bug, identity)
        if found is None:
            return ()
        told = found
    if file is not None:
        with suppress(OSError):
            write_atomically(file.with_name(EXPLANATION), ("\n".join(lines(told)) + "\n").encode())
    return tuple(first_paragraph(told))


def confirm_all(
    discoveries: Sequence[Discovery],
    bug: str | None,
    out: Path,
    workers: int,
    proceed: Callable[[], bool],
    deadly: Container[str] = (),
    name: str = "confirm",
) -> list[ReportedFinding]:
    """Confirm all findings, `workers` at a time. If `proceed` returns False, the rest are reported unconfirmed.

    `deadly` has the identities of those whose program may end its process. `name` is the name of the log.
    """
    reported = {each.identity: unconfirmed(each, bug, out) for each in discoveries}
    left = list(discoveries)
    seconds = min(SECONDS_EACH, SECONDS_ALL * workers / max(len(left), 1))
    running: list[tuple[subprocess.Popen[bytes], Discovery, float]] = []
    try:
        while (left or running) and proceed():
            while left and len(running) < workers:
                discovery = left.pop(0)
                job = ConfirmJob(discovery._asdict(), bug, str(out), seconds, discovery.identity in deadly)
                try:
                    process = launch_child("hvfuzz.campaign.confirm", job._asdict(), out / "logs" / f"{name}.log")
                except OSError:
                    continue  # no more processes: the finding stays unconfirmed
                running.append((process, discovery, time.monotonic() + seconds + GRACE_SECONDS))
            for process, discovery, deadline in running:
                if not _collect(process, discovery, reported, 0.05) and time.monotonic() > deadline:
                    process.kill()
            running = [each for each in running if each[0].returncode is None]
    finally:
        for process, _, _ in running:
            process.terminate()
        patience = time.monotonic() + END_SECONDS
        for process, discovery, _ in running:
            if not _collect(process, discovery, reported, max(0.05, patience - time.monotonic())):
                process.kill()
                process.communicate()
    return list(reported.values())


def _collect(
    process: subprocess.Popen[bytes], discovery: Discovery, reported: dict[str, ReportedFinding], seconds: float
) -> bool:
    """Wait for a process to end and store its report, if it sent one; False if it is still running."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    for line in output.split(b"\n")[:-1]:
        event = json.loads(line)
        if event.pop("event") == "confirmed":
            reported[discovery.identity] = ReportedFinding(**event | {"summary": tuple(event["summary"])})
    return True


def main(arguments: list[str]) -> NoReturn:
    """Entry point of ``python -m hvfuzz.campaign.confirm JOB PARENT``."""
    fields, channel = start_child(arguments)
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    _run_job(fields, channel, lambda: not signals)
    sys.exit(0)


def _run_job(fields: dict[str, Any], channel: Channel, proceed: Callable[[], bool]) -> None:
    try:
        channel.send({"event": "confirmed", **confirm(ConfirmJob(**fields), proceed)._asdict()})
    except (BugError, OSError) as error:
        exit_with_error(channel, error)


if __name__ == "__main__":
    main(sys.argv[1:])
