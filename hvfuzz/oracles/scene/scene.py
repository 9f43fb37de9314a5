"""The system under watch: the machine, the hypervisor, the running calls, and the place where findings go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import WORD
from hvfuzz.oracles.scene.excuses import Excuses

if TYPE_CHECKING:
    from hvfuzz.abi.boot import World
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.machine import Machine
    from hvfuzz.oracles.scene.call_stack import CallStack

OWNED: Final = FrameState.OWNED << 8
SHARED: Final = FrameState.SHARED << 8
STATE_NAMES: Final = {state.value: state.name for state in FrameState}


class Scene:
    """What every oracle is given. `report`(oracle, rule, message) takes a finding."""

    __slots__ = (
        "calls",
        "excused",
        "excuses",
        "failed",
        "failures",
        "frame_words",
        "hypervisor",
        "machine",
        "memory_size",
        "own_frame",
        "owner_and_state",
        "report",
        "words",
        "world",
    )

    def __init__(
        self,
        machine: Machine,
        hypervisor: Hypervisor,
        world: World,
        calls: CallStack,
        report: Callable[[str, str, str], None],
        failed: Callable[[str, Exception], None],
        failures: Mapping[str, None],
    ) -> None:
        self.machine: Final = machine
        self.hypervisor: Final = hypervisor
        self.world: Final = world
        self.words: Final = machine.memory.words
        self.frame_words: Final = hypervisor.frames.base >> 3
        """Index in `words` of the frame word of frame 0."""
        # The lower quarter of each frame word: owner and state.
        first, last = hypervisor.frames.base, hypervisor.frames.base + machine.memory.frames * WORD
        self.owner_and_state: Final = machine.memory.data[first:last].cast("H")[:: WORD // 2]
        """Hfn -> the low 16 bits of its frame word."""
        # A copy, because an access to the hypervisor's own array counts as work of the host.
        domains = list.copy(hypervisor.domains)
        self.own_frame: Final = tuple([(OWNED | domain.id, SHARED | domain.id) for domain in domains])
        """Domain -> the values of `owner_and_state` for a frame that it owns."""
        self.memory_size: Final = machine.memory.size
        self.calls: Final = calls
        self.report: Final = report
        self.failed: Final = failed
        """Called with (oracle, exception) when an oracle fails; it may raise the exception."""
        self.failures: Final = failures
        """The oracles that failed in this run, whose reports are not taken."""
        self.excuses: Final = Excuses()
        self.excused: Final = self.excuses.note
        """Called with an `Excuse` wherever an oracle lets something pass because it cannot know."""

    def guarded(self, oracle: str, hook: Callable[..., None]) -> Callable[..., None]:
        """`hook` of `oracle`, for hardware to call within the hypervisor's code, which may catch what is raised there.

        What the hook raises goes to `failed`, and the hypervisor goes on.
        """

        def call(*arguments: object) -> None:
            try:
                hook(*arguments)
            except Exception as error:
                self.failed(oracle, error)

        return call

    def frame_word(self, hfn: int) -> int:
        """The frame word in memory; 0xFF (free) for a frame that does not exist."""
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
        owner = {0xFE: "the hypervisor", 0xFF: "no owner"}.get(word & 0xFF, f"dom{word & 0xFF}")
        counts = f"maps {word >> 16 & 0xFFFF}, pins {word >> 32 & 0xFFFF}, grants {word >> 48}"
        return f"frame {hfn:#x} ({state}, {owner}, {counts})"
