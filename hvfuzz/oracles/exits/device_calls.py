"""What the steps of `device.*` calls have the PCI functions do (ABI.md, family `device`).

Helper of the oracle `exits`.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import U64
from hvfuzz.oracles.exits.functions.copy_engine import CopyEngine

if TYPE_CHECKING:
    from hvfuzz.oracles.exits.functions.device_activity import DeviceActivity
    from hvfuzz.oracles.scene.running_call import RunningCall
    from hvfuzz.oracles.scene.scene import Scene

DEASSIGN: Final = "device.deassign"
SUBMIT: Final = "device.dma_submit"
BATCH: Final = "device.dma_batch"
USING: Final = (DEASSIGN, SUBMIT, BATCH)
COPY: Final = Struct("<3Q")
"""One copy of a batch: from, to, length."""
COUNT: Final = 8
"""Bytes before the copies of a batch: their number."""


class CopyCalls:
    """Follows the calls of one machine that use or reset a function."""

    __slots__ = ("_activity", "_call", "_calls", "_copies", "_steps", "active")

    def __init__(self, scene: Scene, activity: DeviceActivity) -> None:
        self._calls: Final = scene.calls
        self._activity: Final = activity
        self._call: RunningCall | None = None
        """The call to which the last step belonged."""
        self._copies: list[tuple[int, int, int]] = []
        """The copies that it asks for."""
        self._steps = 0
        """How many steps of it have begun."""
        self.active = ""
        """Name of the call whose step is being applied, if it uses a function."""

    def reset(self) -> None:
        """Forget the last call."""
        self._call = None
        self._copies = []
        self._steps = 0
        self.active = ""

    def step(self) -> None:
        """A step of one of the calls `USING` is about to be applied."""
        call = self._calls.current
        declaration = call.declaration
        if declaration is None or call.args is None:
            return
        self.active = declaration.name
        if call is not self._call:
            self._call, self._steps = call, 0
            self._copies = [] if self.active == DEASSIGN else copies(call)
        number = self._steps
        self._steps += 1
        args = call.args
        functions = self._activity.bus.functions
        if args.device >= len(functions):
            self.active = ""  # The specification refuses such a call.
        elif self.active == DEASSIGN:
            self._activity.cleared(args.device)
        else:
            engine = functions[args.device]
            if number < len(self._copies) and isinstance(engine, CopyEngine):
                self._activity.begin(engine, partial(engine.submitted, *self._copies[number]))

    def stepped(self) -> None:
        """The step was applied."""
        if self.active:
            self._activity.end("device", self.active)
            self.active = ""


def copies(call: RunningCall) -> list[tuple[int, int, int]]:
    """(source, target, length) of each copy that the call asks for, by what it has read at the places of its ring.

    Which reads it made, and how often, is a question of the oracle `fetch`.
    """
    args = call.args
    if call.declaration is not None and call.declaration.name == SUBMIT:
        return [(args.from_, args.to, args.length)]
    read = {gva + at & U64: byte for gva, data in call.reads for at, byte in enumerate(data)}
    found = []
    place = args.ring + COUNT
    while all((place + at) & U64 in read for at in (0, COPY.size - 1)):
        words = bytes(read.get(place + at & U64, 0) for at in range(COPY.size))
        source, target, length = COPY.unpack(words)
        found.append((source, target, length))
        place += COPY.size
    return found
