"""The oracle `principal`: in an exit the hypervisor acts in the name of the vCPU that has exited, and of no other.

The vCPU, not only its domain: another vCPU of the domain may have other page tables, another ring and other registers.
Who has exited is known from the machine. What the hypervisor announces is compared with that.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.machine.cpu.registers import REGISTERS, RFLAGS, Reg, Saved
from hvfuzz.machine.mmu.paging import RFLAGS_RF
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

OTHER_DOMAIN: Final = ("event.send", "device.assign")
"""Calls whose steps change another domain than the caller's: the peer of a port, the new owner of a device."""
OTHER_VCPU: Final = ("sched.kick",)
"""Calls whose steps change another vCPU of the caller's domain."""
OPERANDS: Final = ("domain", "vcpu")
"""Operands of a step that name whom it changes."""
GLOBAL: Final = ("vcpu",)
"""A vCPU without a domain is given by its number in the machine."""
INDEXED: Final = OPERANDS
_registers_of: Final = attrgetter("regs")
_saved_of: Final = attrgetter("vmcs.saved")
_fault_of: Final = attrgetter("pending_fault")
_copied: Final = list.copy


class Principal(Oracle):
    """Copies, calls, steps and injections are in the name of the vCPU whose exit is being handled."""

    name = "principal"
    rules: ClassVar[Rules] = {
        "copy": "guest memory is copied on behalf of the vCPU whose exit it is",
        "call": "a call starts and ends in the name of the vCPU whose exit it is",
        "step": "a step changes the vCPU whose exit it is, or its domain; other ones only where the call says so",
        "injection": "an exit gives no exception, saved state or register to another vCPU than the one that has exited",
        "translation": "the hypervisor translates by the tables of the vCPU whose exit it is",
        "cached": "a translation that is cached for a vCPU is what its own tables give at that time",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._calls: Final = scene.calls
        self._vcpus: Final = scene.machine.vcpus
        self._fetches: Final = scene.machine.fetches
        self._saved: list[list[Any]] = []
        """What the last exit of each vCPU has left in its VMCS, by id; its MSRs are those that its guest now writes."""
        self._registers: list[list[int]] = []
        """The registers of each vCPU at the start of the exit, by id."""
        self._armed = 0
        """The fetch that was to be raced at the start of the exit."""

    def attach(self) -> None:
        """Note what each vCPU has."""
        self.reset()

    def misnamed(self, rule: str, vcpu: VCpu, deed: str) -> None:
        """Report a copy or a call in another name."""
        principal = self._calls.principal
        whose = "of no exit" if principal is None else f"in an exit of {_name(principal)}"
        self.report(rule, f"{whose}, the hypervisor {deed} in the name of {_name(vcpu)}")

    def step(self, step: Any) -> None:
        """Compare the operands of the step with the vCPU whose exit it is."""
        kind: Any = type(step)
        operands: tuple[str, ...] = _operands(kind)
        principal = self._calls.principal
        if not operands or principal is None:
            return
        if operands is GLOBAL:
            if step.vcpu != principal.id:
                self._report_step(step, principal, f"vCPU number {step.vcpu} of the machine")
        elif step.domain != principal.domain or (operands is INDEXED and step.vcpu != principal.index):
            declaration = self._calls.current.declaration
            call = "" if declaration is None else declaration.name
            # Outside of a call it is the event of a timer, which may be any domain's: `specification` knows the timers.
            wrong = step.domain != principal.domain and call not in OTHER_DOMAIN and self._calls.running
            named = f"dom{step.domain}"
            if operands is INDEXED:
                wrong |= step.vcpu != principal.index and call not in OTHER_VCPU
                named = f"vCPU {step.vcpu} of dom{step.domain}"
            if wrong:
                self._report_step(step, principal, named)

    def _report_step(self, step: Any, principal: VCpu, named: str) -> None:
        declaration = self._calls.current.declaration
        call = "" if declaration is None else f" of {declaration.name}"
        text = f"in an exit of {_name(principal)}, the step {type(step).__name__}{call} names {named}"
        self.report("step", text)

    # What other vCPUs get.

    def reset(self) -> None:
        """Note what each vCPU has."""
        self._saved = [each.vmcs.saved.copy() for each in self._vcpus]
        self._registers = []
        self._armed = 0

    def exit_started(self, vcpu: VCpu) -> None:
        """Note the registers of each vCPU. Between exits, only the one that exits has saved anything."""
        self._saved[vcpu.id] = vcpu.vmcs.saved
        self._registers = list(map(_copied, map(_registers_of, self._vcpus)))
        self._armed = self._fetches.trigger

    def exit_finished(self, vcpu: VCpu) -> None:
        """Compare what the other vCPUs have with what they had. Nearly always all of them have just that."""
        vcpus, saved = self._vcpus, self._saved
        if (
            any(map(_fault_of, vcpus))
            or list(map(_saved_of, vcpus)) != saved
            or list(map(_registers_of, vcpus)) != self._registers
        ):
            for each in vcpus:
                if each is not vcpu:
                    self._compare(vcpu, each)
        saved[vcpu.id] = vcpu.vmcs.saved.copy()

    def _compare(self, principal: VCpu, other: VCpu) -> None:
        """Compare what one other vCPU has with what it had. A race has a vCPU run in the middle of the exit."""
        saved, registers = self._saved[other.id], self._registers[other.id]
        raced = self._fetches.trigger != self._armed
        if other.pending_fault is not None:
            self._injected(principal, other, f"the exception {other.pending_fault}")
        if other.vmcs.saved != saved:
            if not raced or _was_changed(other):
                self._injected(principal, other, f"the saved state {_difference(other.vmcs.saved, saved)}")
            self._saved[other.id] = other.vmcs.saved.copy()
        if other.regs != registers and not raced:
            self._injected(principal, other, f"the registers {_difference(other.regs, registers)}")

    def _injected(self, principal: VCpu, other: VCpu, what: str) -> None:
        """Report something given to another vCPU."""
        self.report("injection", f"an exit of {_name(principal)} gives {_name(other)} {what}")


@cache
def _operands(kind: Any) -> tuple[str, ...]:
    """Those operands of a class of steps that name whom it changes: GLOBAL, INDEXED, one, or none."""
    found = tuple([name for name in OPERANDS if hasattr(kind, name)])
    return next((known for known in (GLOBAL, INDEXED) if known == found), found)


def _was_changed(vcpu: VCpu) -> bool:
    """Whether the saved state is no longer that of an exit which found the host busy: such an exit changes nothing.

    (RF is saved clear by most exits: SDM Vol. 3C, 28.3.3.)
    """
    saved = list(vcpu.vmcs.saved)
    now: list[Any] = [
        *(*vcpu.regs, vcpu.cr0, vcpu.cr2, vcpu.cr3, vcpu.cr4, vcpu.efer, vcpu.cpl),
        *(vcpu.msrs, vcpu.idtr, vcpu.tr, vcpu.cs, vcpu.ss),
    ]
    if len(saved) == len(now):
        saved[RFLAGS] |= RFLAGS_RF
        now[RFLAGS] |= RFLAGS_RF
    return saved != now


def _difference(now: list[Any], before: list[Any]) -> str:
    """The first place in which two states differ, in words."""
    for place, (value, old) in enumerate(zip(now, before, strict=False)):
        if value != old:
            name = Reg(place).name if place < REGISTERS else Saved(place).name
            return (
                f"{name} = {value:#x} instead of {old:#x}" if type(value) is type(old) is int else f"{name} = {value}"
            )
    return f"of {len(now)} words instead of {len(before)}"


def _name(vcpu: VCpu) -> str:
    return f"vCPU {vcpu.index} of dom{vcpu.domain}"
