"""Determinism check: the same program gives the same trace in any order, process and Python version.

`python -m hvfuzz.campaign.bench.trace_equality PROGRAMS SEED` prints one line (a fingerprint) for each program: the
digest of its outcomes and of the machine's memory, the digest of its features, and its findings.
"""

import random
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from hvfuzz.campaign.workers.child_process import python_command, python_environment
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import mutate
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.target import Run

SHOWN: Final = 20
"""Number of differing programs to list; the rest are only counted."""

FINGERPRINT: Final = re.compile(r"[0-9a-f]+ [0-9a-f]{8} \[.*\]")


class TraceError(Exception):
    """An interpreter that cannot run the programs: its path and the reason."""


class Rerun(NamedTuple):
    """One more run of all programs, and the numbers of the programs whose fingerprint differs."""

    name: str
    python: str
    different: tuple[int, ...]


def sample(count: int, seed: int, target: EmulatedTarget) -> list[Program]:
    """Make `count` programs; every second one is a mutant of an earlier one, the others are generated."""
    rng = random.Random(seed)
    programs: list[Program] = []
    for number in range(count):
        if number & 1:
            programs.append(mutate(rng.choice(programs[-64:]), rng, target.catalogue))
        else:
            programs.append(generate(rng, target.catalogue))
    return programs


def fingerprint(run: Run) -> str:
    """Everything observable about a run, in one line."""
    features = zlib.crc32(repr(run.features).encode())
    return f"{run.trace.digest()} {features:08x} {[finding.identity for finding in run.findings]}"


def lines(count: int, seed: int) -> Iterator[str]:
    """Yield the fingerprint of each program, run in order."""
    with EmulatedTarget() as target:
        for program in sample(count, seed, target):
            yield fingerprint(target.run(program, digest=True))


def shuffled_lines(count: int, seed: int) -> list[str]:
    """The fingerprints of the same programs, run in a random order with every second run not audited.

    The audit hooks every access; most runs while fuzzing go without it. It must not change the outcome.
    """
    found = [""] * count
    order = list(range(count))
    random.Random(seed + 1).shuffle(order)
    with EmulatedTarget() as target:
        programs = sample(count, seed, target)
        for place, number in enumerate(order):
            found[number] = fingerprint(target.run(programs[number], audit=bool(place & 1), digest=True))
    return found


class OtherProcess:
    """A child process, with this or another interpreter, that runs the same programs."""

    def __init__(self, python: str, hash_seed: int, count: int, seed: int) -> None:
        self.python: Final = python or "''"
        self._count: Final = count
        # The package is found by path, so that the interpreter needs only the dependencies.
        module = "hvfuzz.campaign.bench.trace_equality"
        command = python_command(module, str(count), str(seed), python=python)
        try:
            self._process = subprocess.Popen(
                command,
                env=python_environment(hash_seed),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="backslashreplace",
            )
        except OSError as error:
            raise TraceError(f"{self.python}: {error.strerror}") from None

    def lines(self) -> list[str]:
        """Wait for the process and return all fingerprints. Raises TraceError if it fails."""
        out, err = self._process.communicate()
        if self._process.returncode:
            last = err.strip().splitlines()[-1:] or [f"exited with status {self._process.returncode}"]
            raise TraceError(f"{self.python} cannot run the programs: {last[0]}")
        found = out.splitlines()
        if len(found) != self._count or not all(map(FINGERPRINT.fullmatch, found)):
            what = f"{len(found)} lines instead of the fingerprints of {self._count} programs"
            raise TraceError(f"{self.python} cannot run the programs: it printed {what}")
        return found

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def differing(expected: list[str], found: list[str]) -> tuple[int, ...]:
    """Numbers of the programs whose fingerprints differ or are missing in `found`."""
    return tuple(number for number, line in enumerate(expected) if number >= len(found) or found[number] != line)


if __name__ == "__main__":
    for each in lines(int(sys.argv[1]), int(sys.argv[2])):
        print(each)
