"""A run leaves nothing behind: all state is as it was after boot, and the same run has the same result again.

`graph.py` walks the graph of the state without any knowledge of the snapshot or of the devices. So state that is added
to the machine, the hypervisor or the oracles is checked without a change here.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from hvfuzz.abi.boot import WORLDS
from hvfuzz.campaign.bench.trace_equality import fingerprint
from hvfuzz.campaign.seed_corpus import read_entries
from hvfuzz.engines.hypothesis import dice
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls import sched
from hvfuzz.machine.devices.pci_function import Device
from hvfuzz.machine.machine import Machine
from hvfuzz.targets.emulated.booted_system import System
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

from .graph import CannotWalk, Line, first_difference, state_lines

CORPUS = Path(__file__).parents[2] / "corpus"
WATCHERS = ("hvfuzz.oracles", "hvfuzz.targets", "hvfuzz.guest", "hvfuzz.bugs")
WATCHED = ("hvfuzz.machine", "hvfuzz.hypervisor", "hvfuzz.abi")
TOGETHER = 8
"""Number of programs of the corpus for which the state is compared once."""
MEMOS = frozenset(
    {
        # Caches of pure functions of names and counts.
        ("DispatchChecks", "_known"),
        ("StateFeatures", "_kinds"),
        ("StateFeatures", "_numbers"),
        ("StateFeatures", "_rows"),
        # A copy that equals the one made at boot, or is that one.
        ("PortChanges", "_buckets"),
        # Frames that were found at boot to hold no secret.
        ("Secrets", "_pristine"),
        # The watchdog only checks whether it changes.
        ("Watchdog", "beat"),
    }
)
SCRATCH = MEMOS | {
    # Written at the start of an op or exit, and not read before it is written again.
    ("CallStack", "cycles"),
    ("CallStack", "left"),
    ("CallStack", "since"),
    ("Emulation", "_offset"),
    ("Emulation", "_window"),
    ("Registers", "_devices"),
    ("Interpreter", "_batched"),
    ("CallArguments", "results"),
    ("Interpreter", "_trace"),
    ("TableFollower", "_written"),
    ("FreedFrames", "_cached"),
}


def modules(*layers: str) -> list[tuple[str, object]]:
    """(name, module) of the loaded modules of these layers."""
    prefixes = tuple(f"hvfuzz.{layer}" for layer in layers)
    return [(name, module) for name, module in sorted(sys.modules.items()) if name.startswith(prefixes)]


def host_of(system: System) -> list[Line]:
    """The state of machine and hypervisor, and of their modules."""
    roots = [("machine", system.machine), ("hypervisor", system.hypervisor), *modules("machine", "hypervisor", "abi")]
    return state_lines(roots, "hvfuzz", beyond=WATCHERS)


def watchers_of(system: System, ignored: frozenset[tuple[str, str]] = MEMOS) -> list[Line]:
    """The state of the oracles, with their shadows, and of other observers."""
    roots = [("system", system), *modules("oracles", "targets", "guest")]
    return state_lines(roots, "hvfuzz", beyond=WATCHED, ignored=ignored, ordered=False)


class Checked:
    """The emulated target, with the booted state of each world as lines."""

    def __init__(self, worlds: Iterable[int] = range(len(WORLDS))) -> None:
        self.target = EmulatedTarget()
        self._booted: dict[int, tuple[list[Line], list[Line]]] = {}
        empty = [Program(world, ()) for world in worlds]
        for program in empty:
            # The first runs load modules and fill caches, which must be in the lines of each world.
            self.target.run(program)
        for program in empty:
            self.target.run(program)
            system = self._restored(program)
            self._booted[program.world] = host_of(system), watchers_of(system, SCRATCH)

    def _restored(self, program: Program) -> System:
        system = self.target.system(program.world)
        system.restore()
        return system

    def run(self, program: Program) -> tuple[str, list[Line], list[Line]]:
        """All that a run shows, and all that it leaves."""
        shown = fingerprint(self.target.run(program, digest=True))
        system = self.target.system(program.world)
        return shown, host_of(system), watchers_of(system)

    def difference_from_boot(self, program: Program) -> str | None:
        """The first difference from the booted state after a restore, or None."""
        host, watchers = self._booted[program.world]
        system = self._restored(program)
        return first_difference(host, host_of(system)) or first_difference(watchers, watchers_of(system, SCRATCH))

    def first_problem(self, program: Program) -> str | None:
        """The first difference that a run leaves, or that a second run shows, or None."""
        first = self.run(program)
        stays = self.difference_from_boot(program)
        if stays:
            return f"not restored: {stays}"
        second = self.run(program)
        if first[0] != second[0]:
            return f"result {first[0]} and then {second[0]}"
        differs = first_difference(first[1], second[1]) or first_difference(first[2], second[2])
        return differs and f"not the same again: {differs}"


@pytest.fixture(scope="module")
def checked() -> Checked:
    return Checked()


@pytest.mark.parametrize("world", range(len(WORLDS)), ids=lambda world: WORLDS[world].name)
def test_any_program_leaves_nothing_and_runs_the_same_again(checked: Checked, world: int) -> None:
    @settings(max_examples=4, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
    @given(dice())
    def law(rng: Any) -> None:
        assert checked.first_problem(generate(rng, checked.target.catalogue, worlds=[world])) is None

    law()


@pytest.mark.parametrize("harness", sorted(folder.name for folder in CORPUS.iterdir()))
def test_the_corpus_leaves_nothing_and_runs_the_same_again(checked: Checked, harness: str) -> None:
    entries = read_entries([CORPUS / harness], checked.target.catalogue)
    shown = [fingerprint(checked.target.run(entry.program, digest=True)) for entry in entries]
    for first in range(0, len(entries), TOGETHER):
        some = entries[first : first + TOGETHER]
        again = [fingerprint(checked.target.run(entry.program, digest=True)) for entry in some]
        assert again == shown[first : first + TOGETHER]
        for program in {entry.program.world: entry.program for entry in some}.values():
            assert checked.difference_from_boot(program) is None, [entry.path.stem for entry in some]


# The walk of `graph.py` finds state that the snapshot would miss. Each of these functions keeps some for the next run.

Hiding = Callable[[Machine], Callable[[], None]]


def in_a_module(machine: Machine) -> Callable[[], None]:
    """A cache at module level."""
    hidden: list[int] = []
    sched.CACHE = hidden  # type: ignore[attr-defined]
    return lambda: hidden.append(1)


def in_a_class(machine: Machine) -> Callable[[], None]:
    """An attribute of a class."""

    def count() -> None:
        sched.EndSlice.count = getattr(sched.EndSlice, "count", 0) + 1  # type: ignore[attr-defined]

    sched.EndSlice.count = 0  # type: ignore[attr-defined]
    return count


def in_a_closure(machine: Machine) -> Callable[[], None]:
    """A variable of an enclosing function."""
    hidden: dict[int, int] = {}

    def note() -> None:
        hidden[len(hidden)] = 1

    return note


def in_a_default(machine: Machine) -> Callable[[], None]:
    """The default of an argument."""

    def note(hidden: list[int] = []) -> None:  # noqa: B006
        hidden.append(1)

    return note


class Leaf(Device):
    """A device with state in its `__dict__`, which is declared a leaf for the snapshot."""

    __snapshot_leaf__ = True


Leaf.__module__ = "hvfuzz.machine.devices.leaf"


def in_a_dict(machine: Machine) -> Callable[[], None]:
    """The `__dict__` of an object that the snapshot does not enter."""
    leaf = machine.add_device(Leaf(machine, 0x00F8, "leaf"))
    leaf.seen = 0  # type: ignore[attr-defined]

    def note() -> None:
        leaf.seen += 1  # type: ignore[attr-defined]

    return note


@pytest.fixture
def clean_module() -> Any:
    """Remove what the tests add to modules and classes."""
    yield
    for owner, name in ((sched, "CACHE"), (sched.EndSlice, "count")):
        if name in vars(owner):
            delattr(owner, name)


@pytest.mark.usefixtures("clean_module")
@pytest.mark.parametrize("hide", [in_a_module, in_a_class, in_a_closure, in_a_default])
def test_state_outside_the_snapshot_is_found(hide: Hiding, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = planted(hide, monkeypatch)
    stays = checked.first_problem(parse("# hvp 1\nworld pair\nsched.yield(dom1)\n", checked.target.catalogue))
    assert stays
    assert "hypercalls.sched." in stays


def test_an_attribute_that_is_not_restored_is_found() -> None:
    machine = Machine(1 << 20)
    note = in_a_dict(machine)
    before = state_lines([("machine", machine)], "hvfuzz")
    assert first_difference(before, state_lines([("machine", machine)], "hvfuzz")) is None
    note()
    differs = first_difference(before, state_lines([("machine", machine)], "hvfuzz"))
    assert differs == "machine.devices[0].seen: ('int', 0) before, machine.devices[0].seen: ('int', 1) after"


def planted(hide: Hiding, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """The worlds of a hypervisor whose `sched.yield` keeps state."""
    original = sched.EndSlice.apply
    note = hide(Machine(1 << 20))

    def apply(self: sched.EndSlice, hv: Hypervisor) -> None:
        note()
        original(self, hv)

    for function in (apply, note):
        assert isinstance(function, FunctionType)
        function.__module__ = sched.__name__
    monkeypatch.setattr(sched.EndSlice, "apply", apply)
    return Checked((0,))


def test_an_object_that_cannot_be_walked_is_an_error() -> None:
    with pytest.raises(CannotWalk, match="list_iterator"):
        state_lines([("root", iter([1]))], "hvfuzz")
