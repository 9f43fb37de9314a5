"""Judging: which programs run, what counts as killed, and what becomes of a mutant that ends its process or hangs."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvfuzz.campaign.bench.mutants import judging
from hvfuzz.campaign.bench.mutants.generation import find_mutant
from hvfuzz.campaign.bench.mutants.judge_process import judge_all
from hvfuzz.campaign.bench.mutants.judging import INTERNAL, KILLED, SURVIVED, UNSUPPORTED, Judgement, judge
from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.planting import Unsupported
from hvfuzz.campaign.bench.mutants.reach import NamedProgram, Reach, kept_reach, measure_reach
from hvfuzz.campaign.program_files import read_program
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def programs() -> list[NamedProgram]:
    with EmulatedTarget() as target:
        files = [ROOT / "corpus" / "hypercalls" / name for name in ("grant-copy.hvp", "exchange.hvp")]
        return [NamedProgram(file.name, read_program(file, target.catalogue)) for file in files]


@pytest.fixture(scope="module")
def reach(programs: list[NamedProgram]) -> Reach:
    return measure_reach(programs)


@pytest.fixture(scope="module")
def booted() -> EmulatedTarget:
    return EmulatedTarget(mutated=True)


@pytest.fixture(scope="module")
def status_lost() -> Mutant:
    """A mutant that every program reaches: the status of a call is not given to the guest."""
    return find_mutant("hypervisor/core/dispatch.py:vmcall:early-return:3")


def test_reach_tells_boot_from_programs(status_lost: Mutant, reach: Reach) -> None:
    assert "hypervisor/core/boot.py" in reach.boot
    assert all("hypervisor/core/boot.py" not in lines for lines in reach.lines)
    assert all(reach.costs)
    assert not reach.at_boot(status_lost)
    costs = {named.name: cost for named, cost in zip(reach.programs, reach.costs, strict=True)}
    names = [named.name for named in reach.programs_at(status_lost)]
    assert len(names) == len(reach.programs)
    assert names == sorted(names, key=costs.__getitem__)


def test_reach_is_kept_until_something_changes(
    tmp_path: Path, programs: list[NamedProgram], reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "folder" / "reach.json"
    measured = []

    def measure(programs: list[NamedProgram], each: object) -> Reach:
        measured.append(len(programs))
        return reach._replace(
            programs=programs, lines=reach.lines[: len(programs)], costs=list(reach.costs[: len(programs)])
        )

    monkeypatch.setattr("hvfuzz.campaign.bench.mutants.reach.measure_reach", measure)
    first = kept_reach(file, programs)
    assert kept_reach(file, programs) == first
    assert measured == [len(programs)]
    kept_reach(file, programs[:1])
    file.write_text("{")
    kept_reach(file, programs[:1])
    assert measured == [len(programs), 1, 1]


def test_a_finding_of_an_oracle_kills(status_lost: Mutant, reach: Reach, booted: EmulatedTarget) -> None:
    begun: list[str] = []
    result = judge(status_lost, reach, booted, 5, 1, lambda named: begun.append(named.name))
    assert (result.verdict, result.by, result.programs) == (KILLED, "corpus", 1)
    assert begun == [result.program] == [reach.programs_at(result.mutant)[0].name]
    assert result.finding.count("/") >= 2
    assert Judgement.read(result.plain()) == result


def test_a_mutant_that_nothing_reaches_goes_to_fuzzing(
    status_lost: Mutant, reach: Reach, booted: EmulatedTarget
) -> None:
    nowhere = reach._replace(lines=[{} for _ in reach.lines], boot={})
    first = judge(status_lost, nowhere, booted, 40, 1)
    assert not first.reached
    assert (first.verdict, first.by) == (KILLED, "fuzzing")
    assert first.program.startswith("random program ")
    parse(first.text, booted.catalogue)
    assert judge(first.mutant, nowhere, booted, 40, 1) == first


def test_a_mutant_that_changes_nothing_is_not_supported(
    status_lost: Mutant, reach: Reach, booted: EmulatedTarget
) -> None:
    result = judge(status_lost._replace(after=status_lost.before), reach, booted, 3, 1)
    assert (result.verdict, result.programs) == (UNSUPPORTED, 0)
    assert "the same" in result.message


def test_an_error_of_hvfuzz_kills_nothing(
    status_lost: Mutant, reach: Reach, booted: EmulatedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: EmulatedTarget, *arguments: object, **named: object) -> None:
        raise ZeroDivisionError("of hvfuzz")

    monkeypatch.setattr(EmulatedTarget, "run", broken)
    result = judge(status_lost, reach, booted, 2, 1)
    assert result.verdict == INTERNAL
    assert result.programs == len(reach.programs_at(result.mutant)) + 2
    assert "ZeroDivisionError" in result.finding


@pytest.mark.parametrize(
    ("end", "finding"),
    [
        (lambda: os._exit(3), "host_process/exit:3/unknown"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "host_process/SIGKILL/unknown"),
        (lambda: time.sleep(1000), "work/hang/unknown"),
    ],
)
def test_the_end_of_its_process_kills(
    status_lost: Mutant, reach: Reach, monkeypatch: pytest.MonkeyPatch, end: object, finding: str
) -> None:
    @contextmanager
    def deadly(mutant: Mutant, source: ModuleSource) -> Iterator[None]:
        monkeypatch.setattr(EmulatedTarget, "run", lambda *arguments, **named: end())  # type: ignore[operator]
        yield

    monkeypatch.setattr("hvfuzz.campaign.bench.mutants.judge_process.IDLE_SECONDS", 0.5)
    monkeypatch.setattr(judging, "planted_mutant", deadly)
    (result,) = [each for each in judge_all([status_lost], reach, 1, 1, 1) if each is not None]
    assert (result.verdict, result.by, result.finding) == (KILLED, "corpus", finding)
    assert result.program == reach.programs_at(result.mutant)[0].name


def test_all_are_judged_side_by_side_and_closing_ends_them(
    status_lost: Mutant, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def unsupported(mutant: Mutant, source: ModuleSource) -> Iterator[None]:
        raise Unsupported(mutant.id)
        yield

    monkeypatch.setattr(judging, "planted_mutant", unsupported)
    mutants = [status_lost._replace(ordinal=number) for number in range(1, 6)]
    found = [each for each in judge_all(mutants, reach, 1, 1, 3) if each is not None]
    assert sorted(each.mutant.ordinal for each in found) == [1, 2, 3, 4, 5]
    assert {each.verdict for each in found} == {UNSUPPORTED}
    run = judge_all(mutants, reach, 1, 1, 2)
    next(run)
    run.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_survived_is_the_verdict_of_silence(
    status_lost: Mutant, reach: Reach, booted: EmulatedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def harmless(mutant: Mutant, source: ModuleSource) -> Iterator[None]:
        yield

    monkeypatch.setattr(judging, "planted_mutant", harmless)
    result = judge(status_lost, reach, booted, 4, 1)
    assert result.verdict == SURVIVED
    assert result.programs == len(reach.programs) + 4
