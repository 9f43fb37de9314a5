"""Snapshots: restore undoes every change of the state, in place."""

import random
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.machine.cpu.registers import Reg, Saved
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.snapshot import Snapshot


class Colour(Enum):
    RED = 1


class Entry(NamedTuple):
    value: int
    items: list[int]


@dataclass(frozen=True, slots=True)
class Constant:
    value: int
    items: list[int]


class Node:
    __slots__ = ("__hidden", "left", "right")

    def __init__(self, left: object = None, right: object = None) -> None:
        self.left = left
        self.right = right
        self.__hidden = 0

    def hide(self, value: int) -> None:
        self.__hidden = value

    def hidden(self) -> int:
        return self.__hidden


class Labelled(Node):
    __slots__ = ("__weakref__", "label")

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label


class Checked(list[Any]):
    """A list that counts its changes, and refuses slices."""

    __slots__ = ("work",)

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.work = 0

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            raise IndexError("no slices")
        self.work += 1
        super().__setitem__(index, value)


class Table(dict[Any, Any]):
    __slots__ = ()


def contents(item: Any, seen: dict[int, int] | None = None) -> Any:
    """The state reachable from `item` as comparable data, with identities numbered in order of visit."""
    seen = {} if seen is None else seen
    if id(item) in seen:
        return ("again", seen[id(item)])
    if isinstance(item, (int, str, bytes, type(None), Colour)):
        return item
    seen[id(item)] = len(seen)
    if isinstance(item, dict):
        return ("dict", id(item), [(key, contents(value, seen)) for key, value in item.items()])
    if isinstance(item, set):
        return ("set", id(item), sorted(item))
    if isinstance(item, (bytearray, array)):
        return (type(item).__name__, id(item), bytes(item))
    state: list[Any] = [type(item).__name__, id(item) if not isinstance(item, tuple) else 0]
    if isinstance(item, (list, tuple, deque)):
        state += [contents(element, seen) for element in item]
    if isinstance(item, Checked):
        state.append(item.work)
    if isinstance(item, Node):
        state += [item.hidden(), contents(item.left, seen), contents(item.right, seen)]
    if isinstance(item, Labelled):
        state.append(item.label)
    return tuple(state)


def grow(rng: random.Random, pool: list[Any]) -> Any:
    """A new object that refers to some of `pool`."""
    some = [rng.choice(pool) for _ in range(rng.randrange(4))] if pool else []
    kind = rng.randrange(11)
    if kind == 0:
        return list(some)
    if kind == 1:
        return {rng.randrange(9): item for item in some}
    if kind == 2:
        return {rng.randrange(9) for _ in range(rng.randrange(4))}
    if kind == 3:
        return deque(some, maxlen=rng.choice([None, 3]))
    if kind == 4:
        return bytearray(rng.randbytes(rng.randrange(5)))
    if kind == 5:
        return array("Q", [rng.randrange(99) for _ in range(rng.randrange(4))])
    if kind == 6:
        return Node(*[*some, None, None][:2])
    if kind == 7:
        return Labelled(str(rng.randrange(9)))
    if kind == 8:
        return Checked(some)
    if kind == 9:
        return Table({rng.randrange(9): item for item in some})
    return (rng.randrange(9), tuple(some))


def pick(rng: random.Random, *actions: Callable[[], object]) -> None:
    """Perform one of `actions`."""
    rng.choice(actions)()


def scribble(rng: random.Random, item: Any, pool: list[Any]) -> None:
    """Change `item` in a way that its type allows."""
    new = rng.choice([*pool, 1, None, "x"])
    if isinstance(item, Checked):
        item.append(new)
        item[0] = 5
    elif isinstance(item, (list, deque)):
        pick(rng, item.clear, item.reverse, lambda: item.append(new), lambda: item.extend([1, new]))
    elif isinstance(item, dict):
        pick(rng, item.clear, lambda: item.update({rng.randrange(9): new}), lambda: item.update({"k": 1}))
    elif isinstance(item, set):
        pick(rng, item.clear, lambda: item.add(rng.randrange(99)))
    elif isinstance(item, bytearray):
        pick(rng, item.clear, lambda: item.extend(b"more"))
    elif isinstance(item, array):
        item.append(7)
    elif isinstance(item, Node):
        item.left = new
        item.hide(rng.randrange(9))
        if isinstance(item, Labelled):
            item.label += "!"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_restore_undoes_any_mutation(seed: int) -> None:
    rng = random.Random(seed)
    pool: list[Any] = [Colour.RED]
    for _ in range(rng.randrange(1, 25)):
        pool.append(grow(rng, pool))
    for item in pool:  # Cycles, too.
        if type(item) is list and rng.random() < 0.3:
            item.append(rng.choice(pool))
    root = Node(pool[-1], list(pool))
    before = contents(root)
    snapshot = Snapshot(root)
    for _ in range(3):
        live = list(pool)
        for _ in range(rng.randrange(30)):
            live.append(grow(rng, live))
            scribble(rng, rng.choice(live), live)
        root.left, root.right = rng.choice(live), None
        snapshot.restore()
        assert contents(root) == before


class WithDict:
    pass


class Subclass(Node):
    pass


class Unset:
    __slots__ = ("value",)


class ListWithDict(list[int]):
    pass


@pytest.mark.parametrize(
    "hidden",
    [WithDict(), Subclass(), Unset(), ListWithDict(), iter([]), (item for item in [1]), random.Random(0), object()],
    ids=lambda item: type(item).__name__,
)
def test_state_that_would_escape_is_refused(hidden: object) -> None:
    if type(hidden) is object:
        Snapshot([hidden])  # The instance has no state.
        return
    with pytest.raises(TypeError, match="cannot snapshot"):
        Snapshot([{"deep": (hidden,)}])


def test_declared_leaves_and_constants_are_left_alone() -> None:
    class Leaf:
        __snapshot_leaf__ = True

        def __init__(self) -> None:
            self.value = 1

    leaf, constant, items = Leaf(), Constant(1, []), [1]
    snapshot = Snapshot([leaf, constant, Entry(1, items), len, "".join, Node.hide, memoryview(b"")])
    leaf.value = 2
    constant.items.append(1)
    items.append(2)
    snapshot.restore()
    assert leaf.value == 2
    assert constant.items == [1]
    assert items == [1]


def test_a_class_may_look_after_itself() -> None:
    memory = PhysicalMemory(8192)
    memory.store64(0, 1)
    snapshot = Snapshot.take([memory])
    memory.store64(0, 2)
    snapshot.restore()
    assert memory.load64(0) == 1


def test_a_snapshot_has_roots() -> None:
    with pytest.raises(TypeError, match="root"):
        Snapshot()


def test_a_machine_goes_back_as_a_whole() -> None:
    machine = Machine(1 << 20)
    vcpu = machine.add_vcpu(1)
    vcpu.msrs[0x277] = 6
    regs, combined = vcpu.regs, machine.tlb.combined
    snapshot = Snapshot(machine)
    for _ in range(2):
        regs[Reg.RIP] = 99
        vcpu.cr3 = 0x5000
        vcpu.msrs = {1: 2}
        vcpu.vmcs.saved = [0] * len(Reg) + [0] * len(Saved)
        combined[1, 0, 0, 0] = (0, 7, True, False, 0, 0)
        machine.clock.cycles = 10**9
        machine.memory.store64(0x8000, 1)
        machine.fetches.arm(3, print)
        machine.access_observer = print
        machine.add_vcpu(2)
        snapshot.restore()
        assert vcpu.regs is regs
        assert regs[Reg.RIP] == vcpu.cr3 == machine.clock.cycles == machine.memory.load64(0x8000) == 0
        assert vcpu.msrs == {0x277: 6}
        assert vcpu.vmcs.saved == []
        assert machine.tlb.combined is combined == {}
        assert [machine.fetches.action, machine.access_observer] == [None, None]
        assert machine.vcpus == [vcpu]
