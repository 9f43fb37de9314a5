"""The same program gives the same trace: twice in a process, in other processes, and on every Python version."""

import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.guest.generation import generate
from hvfuzz.guest.program import Program
from hvfuzz.targets.emulated import EmulatedTarget

ROOT = Path(__file__).parents[2]
PROGRAMS = 100
SCRIPT = f"""
import random, zlib
from hvfuzz.guest.generation import generate
from hvfuzz.targets.emulated import EmulatedTarget
rng = random.Random(11)
with EmulatedTarget() as target:
    for _ in range({PROGRAMS}):
        run = target.run(generate(rng, target.catalogue), digest=True)
        features = zlib.crc32(repr(run.features).encode())
        print(run.trace.digest(), features, [finding.identity for finding in run.findings])
"""


def programs(target: EmulatedTarget) -> list[Program]:
    """The programs that the script runs, too."""
    rng = random.Random(11)
    return [generate(rng, target.catalogue) for _ in range(PROGRAMS)]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What each program gives here."""
    lines = []
    with EmulatedTarget() as target:
        for program in programs(target):
            run = target.run(program, digest=True)
            assert not run.findings, run.findings
            lines.append(f"{run.trace.digest()} {zlib.crc32(repr(run.features).encode())} []")
    return lines


def test_a_run_leaves_nothing_behind(expected: list[str]) -> None:
    """In any order, after any other program: the machine starts from the same state."""
    with EmulatedTarget() as target:
        numbered = list(enumerate(programs(target)))
        random.Random(5).shuffle(numbered)
        for number, program in numbered:
            run = target.run(program, digest=True)
            assert f"{run.trace.digest()} {zlib.crc32(repr(run.features).encode())} []" == expected[number]


def test_oracles_do_not_change_what_they_watch(expected: list[str]) -> None:
    with EmulatedTarget(oracles=frozenset()) as target:
        for number, program in enumerate(programs(target)):
            assert target.run(program, digest=True).trace.digest() == expected[number].split()[0]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_another_process_gives_the_same(hash_seed: str, expected: list[str]) -> None:
    assert output(sys.executable, hash_seed) == expected


def test_another_python_gives_the_same(expected: list[str], golden: Callable[[str, str], None]) -> None:
    """The golden file was written by one Python version; continuous integration compares it on all of them."""
    golden("traces.txt", "".join(f"{line}\n" for line in expected))


def output(python: str, hash_seed: str) -> list[str]:
    """What the script prints with that interpreter."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    return done.stdout.splitlines()
