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

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.oracles.framework.call_stack import Calls

if TYPE_CHECKING:
    from hvfuzz.abi.boot import World
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.machine import Machine
    from hvfuzz.oracles.shadow.page_table_shadow import Reachability

Rules: TypeAlias = Mapping[str, str]
"""What each rule demands, by the rule's name."""
STATE_NAMES: Final = {state.value: state.name for state in FrameState}


class Scene:
    """The machine and the hypervisor under watch, and where findings go."""

    __slots__ = ("calls", "frame_words", "hypervisor", "machine", "report", "words", "world")

    def __init__(
        self,
        machine: Machine,
        hypervisor: Hypervisor,
        world: World,
        report: Callable[[str, str, str], None],
    ) -> None:
        self.machine: Final = machine
        self.hypervisor: Final = hypervisor
        self.world: Final = world
        self.words: Final = machine.memory.words
        self.frame_words: Final = hypervisor.frames.base >> 3
        """Index, among `words`, of the frame word of frame 0."""
        self.calls: Final = Calls(machine, hypervisor)
        self.report: Final = report
        """report(oracle, rule, message)"""

    def frame_word(self, hfn: int) -> int:
        """The frame's word, from the bytes; 0xFF (free) for a frame that does not exist."""
        if not 0 <= hfn < self.machine.memory.frames:
            return 0xFF
        word: int = self.words[self.frame_words + hfn]
        return word

    def describe(self, hfn: int) -> str:
        """A frame in words, for messages."""
        if not 0 <= hfn < self.machine.memory.frames:
            return f"frame {hfn:#x} (beyond memory)"
        word = self.words[self.frame_words + hfn]
        state = STATE_NAMES.get(word >> 8 & 0xFF, f"state {word >> 8 & 0xFF}")
        owner = {0xFE: "the hypervisor", 0xFF: "nobody"}.get(word & 0xFF, f"dom{word & 0xFF}")
        counts = f"maps {word >> 16 & 0xFFFF}, pins {word >> 32 & 0xFFFF}, grants {word >> 48}"
        return f"frame {hfn:#x} ({state}, {owner}, {counts})"


class Oracle:
    """One class of invariants. `rules` says, for each rule that it can report, what the rule demands."""

    __snapshot_leaf__ = True

    name: ClassVar[str]
    rules: ClassVar[Rules]
    shadowed: ClassVar[bool] = False
    """Whether the oracle reads the shadow, which then has to be kept up to date."""

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
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
