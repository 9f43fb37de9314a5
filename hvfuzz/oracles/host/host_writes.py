"""Each write of the host to a table, a link, a context entry, a frame word or a device is judged as its own change.

After a step everything is consistent again, so a check at that time sees nothing. But until then another processor or a
device could have used, or cached again, what was to be taken away. So each write is judged as soon as it is done, which
is when the next event comes; and each flush is hooked. That is done in audited runs only.

    live_tables      the tables as they are now     moments         what the tables allow at this moment
    owed_flushes     what must still be flushed     device_moments  what devices can do at this moment

Only the host's writes are followed: what guests and devices write to a table is a finding of other oracles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.memory.frames import FREE_WORD, MAPS_SHIFT, PINS_SHIFT, FrameState
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, WORD
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.oracles.host.device_moments import DeviceMoments
from hvfuzz.oracles.host.hooked_hardware import EVERYTHING, hooked_caches, hooked_device
from hvfuzz.oracles.host.live_tables import LiveTables
from hvfuzz.oracles.host.moments import Moments, fewer
from hvfuzz.oracles.host.owed_flushes import OwedFlushes
from hvfuzz.oracles.isolation.entitlements import OWNED_OR_SHARED, RESERVED, is_owned
from hvfuzz.oracles.scene.call_stack import NO_DOMAIN
from hvfuzz.oracles.shadow.changes import DMA, OWNER_AND_STATE

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.framework.oracle import Oracle
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

SCRUBBED: Final = (*OWNED_OR_SHARED, RESERVED)
"""States of frames that the host writes to only to scrub them."""
TABLE_STATE: Final = FrameState.TABLE << 8
EACH: Final = ("stale", "ownership", "recount")
"""The oracles whose rules are judged here."""


class HostWrites:
    """Follows the writes of one host.

    Reports rules of `stale` (leaf, order, unflushed), of `ownership` (moment, quiet) and of `recount` (uncounted).
    """

    __snapshot_leaf__ = True
    __slots__ = (
        "_devices",
        "_devices_of",
        "_enabled",
        "_frame_table",
        "_held",
        "_hooked",
        "_late",
        "_live",
        "_moments",
        "_owed",
        "_scene",
        "_shadow",
        "_stale",
        "_started",
        "_told",
        "_written",
    )
    oracle = "host_writes"

    def __init__(self, scene: Scene, shadow: PageTableShadow, oracles: Mapping[str, Oracle]) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._enabled: Final = oracles.keys() & EACH
        self._stale: Final[Any] = oracles.get("stale")
        first = scene.frame_words * WORD
        self._frame_table: Final = range(first, first + scene.machine.memory.frames * WORD)
        self._live: Final = LiveTables(shadow)
        self._owed: Final = OwedFlushes(self._hold_late)
        self._devices: Final = DeviceMoments(scene, shadow, self._live, self._owed, self._hold_quiet)
        self._moments: Final = Moments(scene, self._live, self._devices.may_reach, self._hold)
        self._hooked: Final = hooked_caches(
            scene.guarded(self.oracle, self._flush),
            scene.guarded(self.oracle, self._flush_context),
            scene.guarded(self.oracle, self._switched),
            self._space_of,
        )
        devices = scene.machine.devices
        about_to_reset = scene.guarded(self.oracle, self._about_to_reset)
        kinds = {type(device): hooked_device(type(device), about_to_reset) for device in devices}
        self._devices_of: Final = [(device, type(device), kinds[type(device)]) for device in devices]
        self._started = False
        """Whether `_live` is in use: it is copied when the host first writes."""
        self._written: tuple[int, int, bytes] | None = None
        """(hpa, size, bytes before) of an announced write of a table or of frame words."""
        self._held: list[tuple[str, str, str]] = []
        """(oracle, rule, message) of each moment that passed in this call."""
        self._late: list[tuple[str, str]] = []
        """(rule, message) of each flush that came too late, in this call."""
        self._told = 0
        """Number of reports of the oracle `stale` when the call began."""

    def hook(self, on: bool) -> None:
        """Watch from now on, or stop."""
        machine = self._scene.machine
        machine.tlb.__class__, machine.iommu.__class__ = self._hooked if on else (Tlb, Iommu)
        for device, plain, hooked in self._devices_of:
            device.__class__ = hooked if on else plain
        self.reset()

    def reset(self) -> None:
        """Forget all writes and flushes."""
        self._started = False
        self._written = None
        self._held.clear()
        self._late.clear()
        self._told = 0 if self._stale is None else self._stale.reports
        self._live.reset()
        self._owed.reset()
        self._moments.reset()
        self._devices.reset()

    # Reports. They wait for the end of the call: what is still wrong then is told first, by the oracles that see it.

    def _hold(self, oracle: str, rule: str, message: str) -> None:
        self._held.append((oracle, rule, message))

    def _hold_quiet(self, rule: str, message: str) -> None:
        self._held.append(("ownership", rule, message))

    def _hold_late(self, rule: str, message: str) -> None:
        self._late.append((rule, message))

    def _end(self, why: str) -> None:
        """Report what was seen. A missing flush that the oracle `stale` has found in a cache is told already.

        Once a hook of this watcher has failed, it has missed something, and reports nothing.
        """
        self._owed.due(why)
        self._moments.call_ended()
        told = 0 if self._stale is None else self._stale.reports
        late = [("stale", rule, message) for rule, message in self._late if rule == "order" or told == self._told]
        for oracle, rule, message in self._held + late:
            if oracle in self._enabled and self.oracle not in self._scene.failures:
                self._scene.report(oracle, rule, message)
        self._held.clear()
        self._late.clear()
        self._told = told

    # Events.

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """The write announced before this access is done: judge it. Note the next one."""
        if self._written is not None:
            self._settle()
        if write and hpa >= 0 and hpa + size <= self._scene.memory_size:
            self._announced(hpa, size)

    def step(self, step: Any) -> None:
        """A step starts, perhaps within another one."""
        self.stepped(step)

    def stepped(self, step: Any) -> None:
        """A step is done."""
        self._settle()
        self._moments.step_changed()
        self._owed.step_changed()

    def preemption_point(self) -> None:
        """Other vCPUs and other domains may run now."""
        self._settle()
        self._owed.due("the call reached a preemption point")

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """A call is done, and all oracles have seen its result."""
        self._settle()
        self._end("the call ended")

    def op_finished(self) -> None:
        """The op is done."""
        self._settle()
        self._end("the op ended")

    def host_exception(self, fault: BaseException) -> None:
        """The host is dead."""
        self.stepped(None)
        self._end("the host died")

    # Flushes and resets: the write before them is done.

    def _space_of(self, root: int) -> int:
        """The space that the EPT at `root` translates for, NO_DOMAIN if there is none."""
        return next((space for space, hfn in self._shadow.roots.items() if hfn << PAGE_SHIFT == root), NO_DOMAIN)

    def _flush(self, space: int, page: int) -> None:
        if page == EVERYTHING and (space == EVERYTHING or not space & DMA):
            self._scene.calls.flushes += 1  # the IOMMU charges for its own
        self._settle()
        self._owed.flush(space, page)

    def _flush_context(self, bdf: int | None, did: int | None, ignore: int) -> None:
        self._settle()
        self._owed.flush_context(bdf, did, ignore)

    def _switched(self) -> None:
        self._settle()
        self._devices.is_on(self._moments)

    def _about_to_reset(self, device: Any) -> None:
        self._settle()
        self._start()
        self._devices.device_reset(device)

    # Writes.

    def _start(self) -> None:
        """Copy the shadow, which is up to date: the host has written nothing in this run."""
        if not self._started:
            self._started = True
            self._live.start()
            self._devices.start()

    def _announced(self, hpa: int, size: int) -> None:
        """A write is about to be done."""
        self._start()
        hfn, last = hpa >> PAGE_SHIFT, hpa + size - 1 >> PAGE_SHIFT
        if hpa in self._frame_table or hfn in self._live.tables or hfn in self._shadow.iommu_frames:
            self._written = (hpa, size, self._scene.machine.memory.read(hpa, size))
        for at in range(hfn, last + 1):
            state = self._scene.frame_word(at) & 0xFF00
            if state in SCRUBBED:
                self._moments.scrubbed(at)
                self._owed.due_for_frame(at, f"frame {at:#x} was scrubbed")
            elif state == TABLE_STATE:
                self._owed.due_for_frame(at, f"frame {at:#x} was written")

    def _settle(self) -> None:
        """Judge the write that was announced."""
        if self._written is None:
            return
        hpa, size, old = self._written
        self._written = None
        if hpa in self._frame_table:
            self._frame_words_written(hpa, size, old)
        elif hpa >> PAGE_SHIFT in self._shadow.iommu_frames:
            self._devices.look(self._moments)
        else:
            self._table_written(hpa, size)
        self._devices.is_on(self._moments)

    def _frame_words_written(self, hpa: int, size: int, old: bytes) -> None:
        new = self._scene.machine.memory.read(hpa, size)
        first = hpa - self._frame_table.start >> 3
        for at in range(0, size - size % WORD, WORD):
            if old[at : at + WORD] != new[at : at + WORD]:
                before = int.from_bytes(old[at : at + WORD], "little")
                after = int.from_bytes(new[at : at + WORD], "little")
                self._frame_changed(first + (at >> 3), before, after)

    def _frame_changed(self, hfn: int, old: int, new: int) -> None:
        self._moments.frame_changed(hfn, old, new)
        if new == FREE_WORD and old >> MAPS_SHIFT:
            text = f"frame {hfn:#x} is freed while it has counts: its word was {old:#x}"
            self._hold("recount", "free", text)
        if fewer(old, new, MAPS_SHIFT) or fewer(old, new, PINS_SHIFT):
            self._owed.due_for_frame(hfn, f"frame {hfn:#x} lost a count")
        elif (old ^ new) & OWNER_AND_STATE and not (is_owned(old) and is_owned(new) and not (old ^ new) & 0xFF):
            self._owed.due_for_frame(hfn, f"frame {hfn:#x} got another owner or use")

    def _table_written(self, hpa: int, size: int) -> None:
        end = min(hpa + size, (hpa & ~PAGE_MASK) + PAGE_SIZE)
        for word in range(hpa >> 3, end + WORD - 1 >> 3):
            if word >> 9 not in self._live.tables:
                return  # The table led to itself, and is gone.
            change = self._live.take_over(word)
            if change is not None:
                self._owed.entry_changed(change)
                self._moments.entry_changed(change)
                self._devices.entry_changed(change, self._moments)
