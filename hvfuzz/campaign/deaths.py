"""Programs in which a worker ended: replayed in a process of their own, to tell what ended it from what was killed."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from hvfuzz.bugs import BugError, find_bug
from hvfuzz.campaign.forked_target import ORACLE, ForkedTarget
from hvfuzz.campaign.workers.child_process import Channel, exit_with_error, launch_child, start_child
from hvfuzz.campaign.workers.pool import END_SECONDS
from hvfuzz.campaign.workers.worker_handle import Death, Discovery
from hvfuzz.guest.format.text import parse

UNKNOWN: Final = "/unknown"
"""The end of the identity of a death that was not replayed."""
MAX_REPLAYED: Final = 64
SECONDS: Final = 120.0
"""Limits on the replay: programs, and time."""
POLL_SECONDS: Final = 0.05


class DeathsJob(NamedTuple):
    """The configuration of a process that replays programs."""

    texts: list[str]
    bug: str | None


class Verdict(NamedTuple):
    """What the deaths of a campaign come to."""

    findings: dict[str, Discovery]
    """By identity: programs that end their process, each as short as possible, and those that were not replayed."""
    notices: list[str]
    """A warning for each program that runs to its end on replay: something else ended the worker."""


def judge_deaths(
    deaths: Sequence[Death], bug: str | None, out: Path, name: str, proceed: Callable[[], bool]
) -> Verdict:
    """Replay the programs of `deaths` until `proceed` returns False; the rest count as findings, not replayed."""
    replayed = _replay(
        [death.text for death in deaths[:MAX_REPLAYED]], bug, out / "logs" / f"{name}-deaths.log", proceed
    )
    verdict = Verdict({}, [])
    for number, death in enumerate(deaths):
        event = replayed.get(number)
        if event is None:
            identity, message = f"{ORACLE}/{death.rule}{UNKNOWN}", f"a worker {death.how} while it ran this program"
        elif event["identity"] is None:
            place = f"see {death.file}" if death.file is not None else f"it is:\n{death.text}"
            verdict.notices.append(
                f"the program in which worker {death.worker} {death.how} runs to its end on replay; {place}"
            )
            continue
        else:
            identity, message = event["identity"], event["message"]
        known = verdict.findings.get(identity)
        if known is None or len(death.text) < len(known.text):
            runs, seconds = (death.runs, death.seconds) if known is None else (known.runs, known.seconds)
            verdict.findings[identity] = Discovery(identity, message, None, death.text, runs, seconds, None)
    return verdict


def _replay(texts: list[str], bug: str | None, log: Path, proceed: Callable[[], bool]) -> dict[int, dict[str, Any]]:
    """The verdict events of a process that replays `texts`, by number of the text."""
    events: dict[int, dict[str, Any]] = {}
    if not texts or not proceed():
        return events
    try:
        process = launch_child("hvfuzz.campaign.deaths", DeathsJob(texts, bug)._asdict(), log)
    except OSError:
        return events
    deadline = time.monotonic() + SECONDS
    output = b""
    while True:
        try:
            output, _ = process.communicate(timeout=POLL_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if not proceed() or time.monotonic() > deadline:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=END_SECONDS)
                    break
                process.kill()
                output, _ = process.communicate()
                break
    for line in output.split(b"\n")[:-1]:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "verdict":
            events[event["number"]] = event
    return events


def main(arguments: list[str]) -> NoReturn:
    """Entry point of ``python -m hvfuzz.campaign.deaths JOB PARENT``."""
    fields, channel = start_child(arguments)
    try:
        _judge(DeathsJob(**fields), channel)
    except (BugError, OSError) as error:
        exit_with_error(channel, error)
    sys.exit(0)


def _judge(job: DeathsJob, channel: Channel) -> None:
    bug = None if job.bug is None else find_bug(job.bug)
    with ForkedTarget(bug) as target:
        for number, text in enumerate(job.texts):
            findings = target.run(parse(text, target.catalogue)).findings
            deadly = next((each for each in findings if each.oracle == ORACLE or each.rule == "hang"), None)
            channel.send(
                {
                    "event": "verdict",
                    "number": number,
                    "identity": None if deadly is None else deadly.identity,
                    "message": "" if deadly is None else deadly.message,
                }
            )


if __name__ == "__main__":
    main(sys.argv[1:])
