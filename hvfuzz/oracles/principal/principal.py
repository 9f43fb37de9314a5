"""The oracle `principal`: in an exit the hypervisor acts in the name of the vCPU that has exited, and of no other.

The vCPU, not only its domain: another vCPU of the domain may have other page tables, another ring and other registers.
Who has exited is known from the machine. What the hypervisor announces is compared with that.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.principal.vcpu_states import VcpuStates
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


class Principal(Oracle):
    """Copies, calls, steps and injections are in the name of the vCPU whose exit is being handled."""

    name = "principal"
    rules: ClassVar[Rules] = {
        "copy": "guest memory is copied on behalf of the vCPU whose exit it is",
        "call": "a call starts and ends in the name of the vCPU whose exit it is",
        "step": "a step changes the vCPU whose exit it is, or its domain; other ones only where the call says so",
        "injection": "an exit gives no exception, saved state or register to another vCPU than the one that has exited",
        "state": "an exit changes no control register, MSR, table register or VMCS field of another vCPU",
        "translation": "the hypervisor translates by the tables of the vCPU whose exit it is",
        "access": "an access is let through, or raises the exception, that the tables of its vCPU and its rights give",
        "walk": "a translation has the result and the cost, and leaves in tables and caches, what the manual makes it",
        "cached": "a translation that is cached for a vCPU is what its own tables give at that time",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._calls: Final = scene.calls
        self._states: Final = VcpuStates(scene.machine.vcpus)

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
        self._states.reset()

    def exit_started(self, vcpu: VCpu) -> None:
        """Note what the vCPUs have that have acted since the last exit."""
        self._states.exit_started(vcpu)

    def race_started(self, vcpu: VCpu) -> None:
        """Another vCPU acts in the middle of an exit: what it has until now, the exit has given it.

        Or in the middle of an instruction, before its exit: what the raced vCPU has until now, it has made itself.
        """
        principal = self._calls.principal
        if principal is None:
            self._note_actors()
        else:
            self._compare(principal)

    def race_finished(self, vcpu: VCpu) -> None:
        """What the racing vCPU has now, it has made itself. An exit of its own found the host busy."""
        if self._calls.principal is None:
            self._states.acted(vcpu.id)
        else:
            self._states.note(vcpu)

    def exit_finished(self, vcpu: VCpu) -> None:
        """Compare what the other vCPUs have with what they had."""
        self._compare(vcpu)

    def op_finished(self) -> None:
        """Remember who has acted: not every op exits."""
        self._note_actors()

    def _note_actors(self) -> None:
        """Remember who acts in the present op."""
        acting = self._calls.acting
        if acting is None:
            self._states.all_acted()
        else:
            for vcpu_id in acting:
                self._states.acted(vcpu_id)

    def _compare(self, principal: VCpu) -> None:
        """Report what an exit of `principal` has given to other vCPUs."""
        for rule, other, what in self._states.given(principal):
            self.report(rule, f"an exit of {_name(principal)} gives {_name(other)} {what}")


@cache
def _operands(kind: Any) -> tuple[str, ...]:
    """Those operands of a class of steps that name whom it changes: GLOBAL, INDEXED, one, or none."""
    found = tuple([name for name in OPERANDS if hasattr(kind, name)])
    return next((known for known in (GLOBAL, INDEXED) if known == found), found)


def _name(vcpu: VCpu) -> str:
    return f"vCPU {vcpu.index} of dom{vcpu.domain}"
