"""The vCPU on whose behalf the hypervisor acts is the one that has exited, not the one that the hypervisor names.

The machine tells who exits. Every event that carries a vCPU is passed on with that one. If the hypervisor names
another, the event `misnamed` comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.oracles.framework.listeners import Listener, nothing

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.call_stack import CallStack


class Attribution:
    """Puts the vCPU of the present exit in place of the announced one. The suite sets the listener of `misnamed`."""

    __snapshot_leaf__ = True
    __slots__ = ("_calls", "misnamed")

    def __init__(self, calls: CallStack) -> None:
        self._calls: Final = calls
        self.misnamed: Listener = nothing

    def judged(self, rule: str, vcpu: VCpu, deed: str) -> VCpu:
        """The vCPU whose exit it is, after `misnamed` for the announced one; that one outside of all exits."""
        self.misnamed(rule, vcpu, deed)
        principal = self._calls.principal
        return vcpu if principal is None else principal

    def copies_for(self, listener: Listener) -> Listener:
        """A listener of `guest_copy` that calls `listener` with the vCPU whose exit it is."""
        if listener is nothing:
            return nothing
        calls = self._calls

        def guest_copy(vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
            if vcpu is not calls.principal:
                vcpu = self.judged("copy", vcpu, f"copies {size} bytes {'to' if write else 'from'} {hpa:#x}")
            listener(vcpu, gva, hpa, size, write)

        return guest_copy
