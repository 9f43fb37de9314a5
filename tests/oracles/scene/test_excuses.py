"""Every excuse that an oracle has: where the code uses it, and a program that needs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hvfuzz.oracles
from hvfuzz.guest.format.text import parse
from hvfuzz.oracles.scene import excuses
from hvfuzz.oracles.scene.excuses import EXCUSES, Excuse, Excuses
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

ORACLES = Path(hvfuzz.oracles.__file__).parent
PROGRAMS = Path(__file__).with_name("excuses")
NAMES = {name: value for name, value in vars(excuses).items() if isinstance(value, Excuse)}


def used() -> dict[str, list[str]]:
    """Name of each excuse -> the files that use it: passed to `excused`, or kept for who judges by the state."""
    found: dict[str, list[str]] = {}
    for path in sorted(ORACLES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called.endswith(("excused", "excused.append", "partial")):
                    for argument in node.args:
                        if isinstance(argument, ast.Name) and argument.id.isupper():
                            found.setdefault(argument.id, []).append(path.name)
    return found


def test_each_excuse_is_listed_and_used() -> None:
    assert sorted(NAMES.values(), key=EXCUSES.index) == list(EXCUSES)
    assert sorted(used()) == sorted(NAMES)
    assert len({each.name for each in EXCUSES}) == len(EXCUSES)


def test_each_excuse_has_a_program_that_needs_it() -> None:
    assert sorted(path.stem for path in PROGRAMS.glob("*.hvp")) == sorted(name.lower() for name in NAMES)


@pytest.fixture(scope="module")
def target() -> EmulatedTarget:
    """The clean hypervisor."""
    return EmulatedTarget()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_program_needs_its_excuse(name: str, target: EmulatedTarget) -> None:
    """It is counted in a run; in an audited one it is not, if its judge judges the same thing there."""
    program = parse((PROGRAMS / f"{name.lower()}.hvp").read_text(), target.catalogue)
    excuse = NAMES[name]
    for audit in (False, True):
        run = target.run(program, audit=audit)
        assert run.findings == ()
        counted = excuse.name in dict(run.excuses)
        only_audited = excuse.rule.startswith("principal/")
        assert counted == (audit if only_audited else not (audit and excuse.judge)), (name, audit, run.excuses)


def test_counts_are_those_of_one_run() -> None:
    counts = Excuses()
    counts.note(excuses.RING)
    counts.note(excuses.RING)
    assert counts.counted == ((excuses.RING.name, 2),)
    counts.reset()
    counts.closely = True
    counts.note(excuses.OLDER)
    assert counts.counted == ()
