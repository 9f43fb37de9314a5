"""Points at which an op is raced: fetches, which are logged; writes, for which memory has hooks only while armed."""

import pytest

from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.fetches import Fetches
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.physical_memory import PhysicalMemory


def test_the_action_runs_once_before_its_fetch() -> None:
    fetches = Fetches()
    order: list[str] = []
    fetches.arm(2, lambda: order.append("race"))
    for number in range(4):
        fetches.before()
        order.append(f"fetch {number}")
    assert order == ["fetch 0", "fetch 1", "race", "fetch 2", "fetch 3"]
    assert fetches.count == 4


def test_an_action_may_fetch_itself() -> None:
    fetches = Fetches()
    runs: list[int] = []

    def race() -> None:
        runs.append(fetches.count)
        fetches.before()

    fetches.arm(0, race)
    fetches.before()
    fetches.before()
    assert runs == [1]
    assert fetches.count == 3


def test_reset_disarms_and_forgets() -> None:
    fetches = Fetches()
    fetches.arm(1, lambda: None)
    fetches.before()
    fetches.record(3, 0x1000, 0x2000, 8)
    assert fetches.log == [(3, 0x1000, 0x2000, 8)]
    log = fetches.log
    fetches.reset()
    assert fetches.log is log
    assert (fetches.count, fetches.log, fetches.action, fetches.trigger) == (0, [], None, -1)
    fetches.before()
    fetches.before()
    assert fetches.count == 2


# Writes.


@pytest.fixture
def exiting() -> Machine:
    """A machine with a vCPU whose exit is being handled, by the code of this file."""
    machine = Machine(64 * PAGE_SIZE)
    machine.add_vcpu(0).in_root = True
    return machine


def test_a_race_runs_once_before_the_write_that_it_names(exiting: Machine) -> None:
    memory = exiting.memory
    seen: list[tuple[int, ...]] = []
    exiting.writes.arm(4, lambda: seen.append(tuple(memory.words[word] for word in (0, 1, 2, 512, 1024))))
    memory.store64(0, 1)
    memory.store(8, 4, 2)
    memory.write(16, b"\3")
    memory.fill(1, 4)
    memory.copy(2 * PAGE_SIZE, PAGE_SIZE, 8)
    memory.store64(8, 9)
    assert seen == [(1, 2, 3, 4, 0)]
    assert [memory.words[word] for word in (0, 1, 2, 512, 1024)] == [1, 9, 3, 4, 4]


def test_a_copy_has_read_what_it_writes_before_the_race(exiting: Machine) -> None:
    memory = exiting.memory
    memory.store64(0, 5)
    exiting.writes.arm(0, lambda: memory.store64(0, 6))
    memory.copy(PAGE_SIZE, 0, 8)
    assert (memory.words[0], memory.words[512]) == (6, 5)


def test_memory_has_no_hooks_but_while_a_race_is_armed(exiting: Machine) -> None:
    memory, writes = exiting.memory, exiting.writes
    classes = [type(memory)]
    for trigger in (1, 1):
        writes.arm(trigger, lambda: classes.append(type(memory)))
        hooked = type(memory)
        assert hooked is not PhysicalMemory
        memory.store64(0, 1)
        memory.store64(0, 2)
    writes.arm(7, lambda: None)
    assert type(memory) is hooked  # The class is made once.
    writes.reset()
    classes.append(type(memory))
    assert classes == [PhysicalMemory] * 4
    assert (writes.trigger, writes.action) == (-1, None)


def test_a_race_leaves_the_hooks_of_others(exiting: Machine) -> None:
    """What has hooked memory before sees each write, before and after the race."""
    memory = exiting.memory
    written: list[int] = []

    class Watched(PhysicalMemory):
        __slots__ = ()

        def store64(self, hpa: int, value: int) -> None:
            written.append(hpa)
            super().store64(hpa, value)

    memory.__class__ = Watched
    exiting.writes.arm(1, lambda: memory.store64(16, 1))
    for hpa in (0, 8, 24):
        memory.store64(hpa, 1)
    assert written == [0, 16, 8, 24]
    assert type(memory) is Watched


def test_what_hardware_writes_is_not_counted(exiting: Machine) -> None:
    """Nor is anything that is written while no exit is handled."""
    machine = exiting
    raced: list[int] = []
    machine.writes.arm(0, lambda: raced.append(1))
    machine.clock.wait_until(1)
    namespace = {"__name__": "hvfuzz.machine.mmu.stage1", "memory": machine.memory}
    exec("memory.store64(0, 1)\nmemory.write(8, b'1')", namespace)
    machine.vcpus[0].in_root = False
    machine.memory.store64(0, 1)
    assert (raced, machine.writes.count) == ([], 0)
    machine.vcpus[0].in_root = True
    machine.memory.store64(0, 1)
    assert raced == [1]


def test_a_race_is_pending_until_it_acts(exiting: Machine) -> None:
    for points in (exiting.fetches, exiting.writes, exiting.preemptions):
        assert not exiting.race_pending
        points.arm(0, lambda: None)
        assert exiting.race_pending
        points.before()
    assert not exiting.race_pending


def test_time_does_not_go_back() -> None:
    machine = Machine(PAGE_SIZE)
    machine.clock.wait_until(50)
    machine.clock.wait_until(20)
    assert machine.clock.cycles == 50
    assert machine.next_deadline(VCpu(machine, 0, 0, 0)) is None
