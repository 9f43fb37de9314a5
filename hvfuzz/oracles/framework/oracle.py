"""What every oracle has: a name, its rules in words, the scene that it watches, and the moments it may act at.

An oracle takes part in a moment by defining a method of that name; a moment that nobody defines costs nothing:

| moment                                                     | when                                                |
|------------------------------------------------------------|-----------------------------------------------------|
| exit_started(vcpu), exit_finished(vcpu)                    | around the handling of a VM exit                    |
| trap_started(vcpu), trap_finished(vcpu)                    | likewise, after those, of an exit that is no        |
|                                                            | hypercall                                           |
| call_started(vcpu, declaration, args)                      | a hypercall is decoded, or refused by dispatch      |
| settled(change)                                            | a call or op is over, and tables, frame words or    |
|                                                            | grants changed                                      |
| copied(vcpu, declaration, args)                            | then, if a call copied more than its struct, or     |
|                                                            | that in an unusual way                              |
| call_finished(vcpu, declaration, args, status, result, reason) | after that                                      |
| frame_allocated, frame_freed, host_access, guest_copy,     | as in `hypervisor.observer`                         |
| step, stepped, preemption_point                            |                                                     |
| block_allocated, block_freed                               | as there; who defines the moments of frames only is |
|                                                            | told of each frame of a block                       |
| strayed(vcpu, gva, hpa, size, write)                       | a copy at an address that no guest may name         |
| alien(vcpu, gva, hpa, size, write)                         | a copy, and not just in a frame of the caller's own |
| accessed(initiator, hpa, size, access)                     | a guest or a device is about to access memory       |
| reached(initiator, hpa, size, access)                      | a device is about to access memory, or a guest what |
|                                                            | is not just a frame of its own                      |
| loading(vcpu, hpa, size)                                   | a guest is about to load                            |
| op_started(), op_finished()                                | around each op of the program                       |
| host_exception(fault)                                      | an exception escaped host context                   |
| audit()                                                    | everything is looked at anew                        |
| attach(), reset()                                          | the base state is taken, and returned to            |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from hvfuzz.oracles.framework.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

Rules: TypeAlias = Mapping[str, str]
"""What each rule demands, by the rule's name."""


class Oracle:
    """One class of invariants. `rules` says, for each rule that it can report, what the rule demands."""

    __snapshot_leaf__ = True

    name: ClassVar[str]
    rules: ClassVar[Rules]
    shadowed: ClassVar[bool] = False
    """Whether the oracle reads the shadow, which then has to be kept up to date."""

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self.scene: Final = scene
        self.shadow: Final = shadow

    def attach(self) -> None:
        """Take note of the machine as it is now; `reset` returns to this."""

    def audit(self) -> None:
        """Look at everything anew."""

    def host_exception(self, fault: BaseException) -> None:
        """An exception escaped host context."""

    def report(self, rule: str, message: str) -> None:
        """Report that `rule` is broken."""
        self.scene.report(self.name, rule, message)

    def reset(self) -> None:
        """Forget everything since the snapshot."""
