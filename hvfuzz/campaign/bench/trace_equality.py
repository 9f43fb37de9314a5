"""Whether the same program gives the same trace: twice in a process, in other processes, on other Python versions.

`python -m hvfuzz.campaign.bench.trace_equality PROGRAMS SEED` prints a line for each program, which says all that a
run shows: the digest of its outcomes and of the machine's memory, of its features, and its findings.
"""

import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hvfuzz.guest.generate.generation import generate
from hvfuzz.guest.mutate.mutation import mutate
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.emulated.emulated import EmulatedTarget
from hvfuzz.targets.target import Run

ROOT: Final = Path(__file__).parents[3]
SHOWN: Final = 20
"""Programs whose difference is told; the rest are counted."""


class TraceError(Exception):
    """An interpreter that cannot run the programs, in one line."""


class Rerun(NamedTuple):
    """One more run of all programs, and the numbers of those whose line was another one."""

    name: str
    python: str
    different: tuple[int, ...]


def sample(count: int, seed: int, target: EmulatedTarget) -> list[Program]:
    """`count` programs: generated ones, and each second one a mutant of one of those before."""
    rng = random.Random(seed)
    programs: list[Program] = []
    for number in range(count):
        if number & 1:
            programs.append(mutate(rng.choice(programs[-64:]), rng, target.catalogue))
        else:
            programs.append(generate(rng, target.catalogue))
    return programs


def fingerprint(run: Run) -> str:
    """All that a run shows, in a line."""
    features = zlib.crc32(repr(run.features).encode())
    return f"{run.trace.digest()} {features:08x} {[finding.identity for finding in run.findings]}"


def lines(count: int, seed: int) -> Iterator[str]:
    """The line of each program, as they are run."""
    with EmulatedTarget() as target:
        for program in sample(count, seed, target):
            yield fingerprint(target.run(program, digest=True))


def shuffled_lines(count: int, seed: int) -> list[str]:
    """The same lines, but the programs were run in another order, after other ones, and every other run not audited.

    A run that is audited is looked at closely by hooks, others are not, as most while fuzzing: it must not matter.
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
    """Another interpreter, or this one again, that runs the same programs; `line()` gives the next line."""

    def __init__(self, python: str, hash_seed: int, count: int, seed: int) -> None:
        self.python: Final = python
        # Nothing of this process may help: the package is found by its path, and hashes differ.
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)}
        command = [python, "-m", "hvfuzz.campaign.bench.trace_equality", str(count), str(seed)]
        try:
            self._process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise TraceError(f"{python}: {error.strerror}") from None

    def lines(self) -> list[str]:
        """All lines, once it is done. Raises TraceError if it fails."""
        out, err = self._process.communicate()
        if self._process.returncode:
            last = err.strip().splitlines()[-1:] or [f"ended with status {self._process.returncode}"]
            raise TraceError(f"{self.python} cannot run the programs: {last[0]}")
        return out.splitlines()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def differing(expected: list[str], found: list[str]) -> tuple[int, ...]:
    """The numbers of the programs whose lines differ, or are missing."""
    return tuple(number for number, line in enumerate(expected) if number >= len(found) or found[number] != line)


if __name__ == "__main__":
    for each in lines(int(sys.argv[1]), int(sys.argv[2])):
        print(each)
