"""Checks that the hypervisor only accesses bytes that it announced. Helper of the oracle `host_memory`.

The other oracles rely on announcements: the events `host_access` and `guest_copy`. This watcher looks at the accesses
that follow. For that it hooks every access of memory, which is slow: so it acts only in replays and in audited runs.

    guest_copy(hpa, size, write)   -> one access within these bytes
    host_access(hpa, size, write)  -> accesses within these bytes, until something else is announced

Steps are announced before and after, so that each can be judged when it is done: an exit must not leave one open.

Hardware, guests and oracles access memory too while the hypervisor works. The module of the code that makes an access
tells whose it is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, U64, WORD
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.oracles.host.hooked_hardware import HookedView, hooked_memory, responsible_module
from hvfuzz.oracles.scene.call_stack import NO_DOMAIN
from hvfuzz.oracles.scene.running_call import NO_GVA

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

NOT_THE_HOST: Final = ("hvfuzz.machine.", "hvfuzz.oracles.", "hvfuzz.guest.", "hvfuzz.targets.", "hvfuzz.explain.")
"""Packages whose code is not the hypervisor's."""
KEPT: Final = 2
"""Number of announcements that are valid at a time: a copy between frames announces both its ends."""
NOTHING: Final = (0, 0, False, False)


class AccessLog:
    """Hooks the memory of one machine, and reports the rule `unannounced` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_announced", "_calls", "_fetched", "_fetches", "_guarded", "_hooked", "_memory", "_open", "_scene")
    oracle = "host_memory"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._memory: Final = scene.machine.memory
        self._calls: Final = scene.calls
        self._guarded: Final = scene.guarded(self.oracle, self._check)
        self._hooked: Final[dict[type[PhysicalMemory], type[PhysicalMemory]]] = {}
        """Class of memory, which another watcher may have hooked first -> that class with the hooks of this one."""
        self._announced = [NOTHING] * KEPT
        """(first byte, end, write, valid for one access only), the latest last."""
        self._fetches: Final = scene.machine.fetches
        self._fetched = (0, NO_GVA)
        """(number of fetches begun when the last one was seen, end of its last piece)."""
        self._open: list[Any] = []
        """The steps that are being applied, the innermost last."""

    def hook(self, on: bool) -> None:
        """Watch each access from now on, or stop: memory changes its class, see `hooked_hardware`."""
        memory, host = self._memory, self._scene.hypervisor.host
        below = type(memory)
        if not on:
            memory.__class__ = PhysicalMemory
        elif below not in self._hooked.values():
            if below not in self._hooked:
                self._hooked[below] = hooked_memory(self._guarded, self._asked_by_the_host, below)
            memory.__class__ = self._hooked[below]
        # The host keeps its own reference for reading single words.
        host.words = HookedView(memory.words, WORD, self._guarded) if on else memory.words

    def host_exception(self, fault: BaseException) -> None:
        """The host is dead: nothing waits to be reported."""

    def reset(self) -> None:
        """Forget the announcements."""
        self._announced = [NOTHING] * KEPT
        self._fetched = (0, NO_GVA)
        self._open.clear()

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """Note an announcement for any number of accesses."""
        self._announce(hpa, size, write, False)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Note an announcement for one access. Before each fetch, but not before its second piece, others may act."""
        if not write and gva != NO_GVA:
            begun, end = self._fetched
            if begun == self._fetches.count and gva != end:
                self._scene.report(self.oracle, "unannounced", f"nobody can act before the hypervisor fetches {gva:#x}")
            self._fetched = self._fetches.count, gva + size & U64
        self._announce(hpa, size, write, True)

    def exit_started(self, vcpu: VCpu) -> None:
        """No step is being applied, and nothing is fetched."""
        self._open.clear()
        self._fetched = self._fetches.count, NO_GVA

    def step(self, step: Any) -> None:
        """A step starts, perhaps within another one."""
        self._open.append(step)

    def stepped(self, step: Any) -> None:
        """It must be the step that started last."""
        if not self._open or self._open.pop() is not step:
            name = type(step).__name__
            self._scene.report(
                self.oracle, "unannounced", f"the hypervisor tells the end of the step {name}, not its start"
            )

    def exit_finished(self, vcpu: VCpu) -> None:
        """All steps must be done."""
        if self._open:
            name = type(self._open[-1]).__name__
            self._scene.report(self.oracle, "unannounced", f"the hypervisor never tells that the step {name} is done")

    def _announce(self, hpa: int, size: int, write: bool, once: bool) -> None:
        self._announced.append((hpa, hpa + size, write, once))
        del self._announced[0]

    def _asked_by_the_host(self) -> bool:
        """Whether the code that asks for a property of memory is the hypervisor's."""
        if self._calls.exiting == NO_DOMAIN:
            return False
        return not responsible_module(sys._getframe(2)).startswith(NOT_THE_HOST)

    def _check(self, hpa: int, size: int, write: bool) -> None:
        """Check an access that is about to be made by the caller of the method that called the guard of this."""
        if self._calls.exiting == NO_DOMAIN or not size:
            return
        if responsible_module(sys._getframe(3)).startswith(NOT_THE_HOST):
            return
        if hpa < 0 or hpa + size > self._memory.size:
            return  # The access itself fails.
        for at, (first, end, way, once) in enumerate(self._announced):
            if way == write and first <= hpa and hpa + size <= end:
                if once:
                    self._announced[at] = NOTHING
                return
        verb = "writes" if write else "reads"
        where = f"at {hpa:#x}, in {self._scene.describe(hpa >> PAGE_SHIFT)}"
        self._scene.report(self.oracle, "unannounced", f"the hypervisor {verb} {size} unannounced bytes {where}")
