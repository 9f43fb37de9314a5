"""The account of `hvfuzz cost`: the virtual cycles of each op, by what they were charged for.

The clock is a plain number, to which code adds cycles. To see who adds them, the class of the clock of an accounted
machine is replaced by one whose `cycles` is a property, which looks up the calling function in CAUSES. Every machine
could have such a property, but each charge would take 0.26 µs instead of 0.03 µs; with seven charges per op, that is
2.7 % of the time of an op without oracles.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.framework.suite import OracleSuite
from hvfuzz.oracles.host.hooked_hardware import hooked_clock
from hvfuzz.targets.run_observer import RunObserver

EXITS: Final = "exits"
ENTRIES: Final = "entries"
WALKS: Final = "walk references"
HITS: Final = "cache hits"
FLUSHES: Final = "flushes"
COPIES: Final = "copies"
INSTRUCTIONS: Final = "instructions"
EXCEPTIONS: Final = "exceptions"
SLICES: Final = "time slices"
WAITS: Final = "waits"
"""Time that passes until a deadline, by the op `timer`."""
OTHERS: Final = "others"
KINDS: Final = (EXITS, ENTRIES, WALKS, HITS, FLUSHES, COPIES, INSTRUCTIONS, EXCEPTIONS, SLICES, WAITS, OTHERS)
"""All kinds of cycles, in the order of the output."""

_Charge = Callable[[int], tuple[tuple[str, int], ...]]
"""Divides the cycles of one charge into (kind, cycles)."""


def _all_for(kind: str) -> _Charge:
    return lambda cycles: ((kind, cycles),)


def _exit_or_entry(cycles: int) -> tuple[tuple[str, int], ...]:
    """`exit_and_enter` charges for the VM exit, and for the VM entry."""
    return ((EXITS if cycles == Cost.VMEXIT else ENTRIES, cycles),)


def _preemption(_cycles: int) -> tuple[tuple[str, int], ...]:
    """A preemption point enters and exits the guest within a call."""
    return ((ENTRIES, Cost.VMENTRY), (EXITS, Cost.VMEXIT))


def _walk(cycles: int) -> tuple[tuple[str, int], ...]:
    """A reference to a table; the charge may include the translation of its address by a cache."""
    hit = cycles - Cost.WALK_REFERENCE
    return ((WALKS, Cost.WALK_REFERENCE), (HITS, hit)) if hit else ((WALKS, cycles),)


_others: Final = _all_for(OTHERS)
CAUSES: Final[Mapping[str, _Charge]] = MappingProxyType(
    {
        "exit_and_enter": _exit_or_entry,
        "_fail_entry": _exit_or_entry,
        "take_injected": _all_for(EXCEPTIONS),
        "preempt": _preemption,
        "Mmu.translate": _all_for(HITS),
        "Mmu._walk": _walk,
        "Mmu._set_flags": _all_for(WALKS),
        "SecondStage.resolve_gpa": _all_for(HITS),
        "SecondStage._walk_ept": lambda cycles: ((HITS if cycles == Cost.TLB_HIT else WALKS, cycles),),
        "Iommu.translate": _all_for(HITS),
        "Iommu.invalidate_context": _all_for(FLUSHES),
        "Iommu.invalidate_iotlb": _all_for(FLUSHES),
        "VtdTables.page": _all_for(WALKS),
        "VtdTables._read_entry": _all_for(WALKS),
        "InvalidationQueue._perform": _all_for(WALKS),
        "InvalidationQueue._wait": _all_for(COPIES),
        "Device.dma_read": _all_for(COPIES),
        "Device.dma_write": _all_for(COPIES),
        "raw_copy_from_guest": _all_for(COPIES),
        "read_at": _all_for(COPIES),
        "write_at": _all_for(COPIES),
        "copy_bytes": _all_for(COPIES),
        "Scheduler.end_slice": _all_for(SLICES),
        "Scheduler.sleep": _all_for(SLICES),
        "Clock.wait_until": _all_for(WAITS),
        "Stage2.flush": _all_for(FLUSHES),
        "invlpg": _all_for(FLUSHES),
        "invpcid": _all_for(FLUSHES),
        "mov_cr": _all_for(INSTRUCTIONS),
        "read_cr": _all_for(INSTRUCTIONS),
        "pause": _all_for(INSTRUCTIONS),
        "iret": _all_for(INSTRUCTIONS),
        "lidt": _all_for(INSTRUCTIONS),
        "ltr": _all_for(INSTRUCTIONS),
        "enter_handler": _all_for(EXCEPTIONS),
        "swapgs": _all_for(INSTRUCTIONS),
        "sysenter": _all_for(INSTRUCTIONS),
        "sysexit": _all_for(INSTRUCTIONS),
        "rdmsr": _all_for(INSTRUCTIONS),
        "syscall": _all_for(INSTRUCTIONS),
        "sysret": _all_for(INSTRUCTIONS),
        "wrmsr": _all_for(INSTRUCTIONS),
        "_interrupt_flag": _all_for(INSTRUCTIONS),
        "exit_if_intercepted": _all_for(INSTRUCTIONS),
        "_time_stamp": _all_for(INSTRUCTIONS),
    }
)
"""{qualified name of a function that charges cycles: how to divide its charges}."""


class OpCost(NamedTuple):
    """The cost of one op, with its race and its batched calls, in cycles by kind."""

    op: int
    """Index of the op in the program."""
    text: str
    kinds: Mapping[str, int]

    @property
    def total(self) -> int:
        """The cycles of all kinds."""
        return sum(self.kinds.values())


class CycleAccount(RunObserver):
    """Observes a run; `ops` has the cost of each op."""

    __slots__ = ("_machine", "_op", "_render", "_spent", "ops")

    def __init__(self, render: Callable[[Op], str]) -> None:
        self._render: Final = render
        self._machine: Machine | None = None
        self._spent: Counter[str] = Counter()
        self._op: tuple[int, Op] | None = None
        self.ops: list[OpCost] = []

    def attach(self, machine: Machine, suite: OracleSuite) -> None:
        """Account for all charges to the machine's clock from now on."""
        self._machine = machine
        machine.clock.__class__ = hooked_clock(self._charge)

    def begin(self) -> None:
        """See `RunObserver.begin`."""
        self.ops = []
        self._op = None

    def op_started(self, index: int, op: Op) -> None:
        """See `RunObserver.op_started`."""
        self._op = index, op
        self._spent = Counter()

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """See `RunObserver.op_finished`."""
        if self._op is not None:
            index, op = self._op
            self.ops.append(OpCost(index, self._render(op), dict(self._spent)))
        self._op = None

    def _charge(self, frame: FrameType, cycles: int) -> None:
        name = frame.f_code.co_qualname
        if self._op is not None:
            # A planted bug may charge cycles, too; they count as others.
            for kind, amount in CAUSES.get(name, _others)(cycles):
                self._spent[kind] += amount
