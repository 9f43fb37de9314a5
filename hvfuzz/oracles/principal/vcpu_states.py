"""All state of the vCPUs that do not exit: in an exit of another vCPU, none of it changes.

A vCPU changes by its own instructions, which run between exits, and by its own exits. So what each vCPU has is noted
once it has acted, when the next exit of another vCPU begins, and again when a race has let it act in the middle of that
exit. When the exit ends, every other vCPU must have exactly this. A multicall is one exit, like any other.

The state of the vCPU that has exited is judged by the oracle `exits`. Helper of the oracle `principal`; reports nothing
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvfuzz.machine.cpu.registers import REGISTERS, Reg, Saved

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu

PROCESSOR: Final = (
    *("regs", "msrs", "pending_fault", "cpl", "cr0", "cr2", "cr3", "cr4", "efer", "cs", "ss", "idtr", "tr", "eptp"),
    *("vpid", "upcall_pending", "in_root", "domain", "index", "id", "vmcs"),
)
"""The fields of a vCPU that are compared."""
VMCS: Final = (
    *("saved", "intercepts", "msr_bitmap", "tsc_offset", "reason", "qualification", "gpa", "gva", "vectoring"),
    *("vectoring_error", "length", "width", "operand", "write", "port", "string", "leaf"),
)
"""The fields of its VMCS that are compared."""
ELSEWHERE: Final = MappingProxyType(
    {
        "runnable": "the contract lets calls, timers and interrupts change it: `specification` and `exits` judge it",
        "machine": "the whole machine, which no vCPU owns",
        "memory": "the memory of the machine",
        "mmu": "the MMU of the machine",
    }
)
"""Field of a vCPU that is not compared -> the reason."""
SAVED: Final = VMCS.index("saved")
MSRS: Final = int(Saved.MSRS)
EXCEPTION_OR_REGISTERS: Final = ("pending_fault", "regs", "saved")
_processor: Final = attrgetter(*PROCESSOR)
_vmcs: Final = attrgetter(*VMCS)


class Given(NamedTuple):
    """Something that an exit has given to another vCPU: the rule that forbids it, and what it is, in words."""

    rule: str
    vcpu: VCpu
    what: str


class VcpuStates:
    """What each vCPU of one machine had when it last acted."""

    __slots__ = ("_acted", "_control", "_others", "_processors", "_vcpus")

    def __init__(self, vcpus: Sequence[VCpu]) -> None:
        self._vcpus: Final = vcpus
        self._others: Final = [
            tuple([(number, each) for number, each in enumerate(vcpus) if each is not vcpu]) for vcpu in vcpus
        ]
        self._processors: list[tuple[Any, ...]] = []
        self._control: list[tuple[Any, ...]] = []
        """The fields of the VMCS."""
        self._acted: dict[int, None] = {}
        """Ids of the vCPUs that have acted since they were last noted."""

    def reset(self) -> None:
        """Note what every vCPU has."""
        self._processors = [_processor_of(vcpu) for vcpu in self._vcpus]
        self._control = [_vmcs_of(vcpu) for vcpu in self._vcpus]
        self._acted = {}

    def acted(self, vcpu_id: int) -> None:
        """A vCPU runs instructions, outside of the exits of all others."""
        self._acted[vcpu_id] = None

    def all_acted(self) -> None:
        """Any vCPU may have run instructions."""
        self._acted = dict.fromkeys(range(len(self._vcpus)))

    def exit_started(self, vcpu: VCpu) -> None:
        """Note what the vCPUs have that have acted; that of `vcpu` itself is the next exit's."""
        number = vcpu.id
        for each in self._acted:
            if each != number:
                self.note(self._vcpus[each])
        self._acted = {number: None}

    def note(self, vcpu: VCpu) -> None:
        """Note what `vcpu` has now."""
        self._processors[vcpu.id] = _processor_of(vcpu)
        self._control[vcpu.id] = _vmcs_of(vcpu)

    def given(self, vcpu: VCpu) -> Iterator[Given]:
        """What an exit of `vcpu` has changed of other vCPUs so far, each once."""
        processors, control = self._processors, self._control
        for number, other in self._others[vcpu.id]:
            # Compare in place; copy only on a difference.
            if _processor(other) != processors[number] or _vmcs(other.vmcs) != control[number]:
                yield from _changes(other, PROCESSOR, _processor(other), processors[number])
                yield from _changes(other, VMCS, _vmcs(other.vmcs), control[number])
                processors[number], control[number] = _processor_of(other), _vmcs_of(other)


def _processor_of(vcpu: VCpu) -> tuple[Any, ...]:
    """What `_processor` gives, none of which changes later."""
    registers, msrs, *rest = _processor(vcpu)
    return (registers.copy(), msrs.copy(), *rest)


def _vmcs_of(vcpu: VCpu) -> tuple[Any, ...]:
    """What `_vmcs` gives, none of which changes later. The saved MSRs become those that the guest writes."""
    saved, *rest = _vmcs(vcpu.vmcs)
    saved = saved.copy()
    if saved:
        saved[MSRS] = saved[MSRS].copy()
    return (saved, *rest)


def _changes(vcpu: VCpu, names: Sequence[str], now: Sequence[Any], before: Sequence[Any]) -> Iterator[Given]:
    for name, value, old in zip(names, now, before, strict=True):
        if value != old:
            rule = "injection" if name in EXCEPTION_OR_REGISTERS else "state"
            yield Given(rule, vcpu, _in_words(name, value, old))


def _in_words(name: str, value: Any, old: Any) -> str:
    """What has changed, with both values: of lists and of MSRs the first one."""
    if name == "pending_fault":
        return f"the exception {value} instead of {old}"
    if name == "vmcs":
        return "a VMCS that is not its own"
    if name == "msrs":
        return _msr(value, old)
    if name in ("regs", "saved"):
        kind = "register" if name == "regs" else "saved"
        for place, (one, other) in enumerate(zip(value, old, strict=False)):
            if one != other:
                if place == MSRS:
                    return f"{kind} {_msr(one, other)}"
                field = Reg(place).name if place < REGISTERS else Saved(place).name
                return f"{kind} {field} = {_shown(one)} instead of {_shown(other)}"
        return f"{len(value)} saved values instead of {len(old)}"
    return f"{name.upper().replace('_', ' ')} = {_shown(value)} instead of {_shown(old)}"


def _msr(value: Any, old: Any) -> str:
    for index in sorted({*value, *old}):
        if value.get(index) != old.get(index):
            return f"MSR {index:#x} = {_shown(value.get(index, 0))} instead of {_shown(old.get(index, 0))}"
    return "MSRs"


def _shown(value: Any) -> str:
    """A value for a message: numbers in hexadecimal, tables as base and limit."""
    if isinstance(value, tuple):
        return f"({', '.join(_shown(each) for each in value)})"
    return hex(value) if type(value) is int else f"{value}"
