"""Finds the cells that may have changed in the machine since they were last compared, with their present values.

Frames, pages, devices, grants and mappings come from the changes that the shadow reports. Run states, ports, and the
version, clock window and console of each domain are compared with copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import POPULATE_LARGE
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import LARGE_FRAMES
from hvfuzz.oracles.contract.abstraction import Abstraction, frame_of, keys_of, pages_of, run_state
from hvfuzz.oracles.contract.port_changes import PortChanges
from hvfuzz.oracles.contract.spec import FREE, Block, IoPage, Key, Page, Value, frame_block, page_block
from hvfuzz.oracles.shadow.changes import DMA, LARGE_LEVEL

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

Cells = dict[Key, Value]
FREE_STATE: Final = int(FrameState.FREE)
# Half the time of the constructors, for each leaf that changed.
_page = partial(tuple.__new__, Page)
_io_page = partial(tuple.__new__, IoPage)


class CellChanges:
    """Finds the cells that changed since they were last compared. Each change is reported once."""

    __slots__ = (
        "_abstraction",
        "_base_own",
        "_base_runs",
        "_own",
        "_ports",
        "_runs",
        "_scene",
        "_shadow",
        "_vcpus",
        "add_ports",
        "pending",
    )

    def __init__(self, scene: Scene, shadow: PageTableShadow, abstraction: Abstraction) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._abstraction: Final = abstraction
        self.pending: Final[list[Change]] = []
        """Changes that the shadow reported and `from_shadow` has not used up."""
        self._vcpus: list[VCpu] = []
        self._runs: list[int] = []
        """Run state of each vCPU when last compared."""
        self._base_runs: list[int] = []
        self._own: list[tuple[Any, ...]] = []
        """What `_own_state` gave for each domain when last compared."""
        self._base_own: list[tuple[Any, ...]] = []
        self._ports: Final = PortChanges(shadow.domains, scene.hypervisor.host.work)
        self.add_ports: Final = self._ports.add_to

    def attach(self) -> None:
        """Take the present machine as the base."""
        self._vcpus = list(self._scene.machine.vcpus)
        self._base_runs = [vcpu.runnable for vcpu in self._vcpus]
        self._base_own = [_own_state(domain) for domain in self._shadow.domains]
        self._ports.attach()
        self.reset()

    def reset(self) -> None:
        """Return to the base, as the machine has done."""
        self.pending.clear()
        self._runs = self._base_runs
        self._own = list(self._base_own)
        self._ports.reset()

    def run_states(self) -> Cells:
        """The vCPUs whose run state changed."""
        vcpus = self._vcpus
        runs = [vcpu.runnable for vcpu in vcpus]
        before = self._runs
        if runs == before:
            return {}
        self._runs = runs
        return {
            ("vcpu", vcpu.domain, vcpu.index): run_state(run)
            for vcpu, run, old in zip(vcpus, runs, before, strict=True)
            if run != old
        }

    def add_domains(self, actual: Cells) -> None:
        """Add the versions, clock windows and consoles of domains that changed to `actual`."""
        for number, (domain, (version, window, reads, console)) in enumerate(
            zip(self._shadow.domains, self._own, strict=True)
        ):
            if (
                domain.version != version
                or domain.clock_reads != reads
                or domain.clock_window != window
                or domain.console != console
            ):
                self._own[number] = _own_state(domain)
                for name in ("version", "clock_window", "console"):
                    key = (name, number)
                    actual[key] = self._abstraction.cell(key)

    def from_shadow(self, blocks: list[Block] | None = None) -> Cells:
        """The cells that the pending changes concern, with their present values. The changes are used up.

        If `blocks` is given, whole blocks go there instead; none of their cells is returned.
        """
        shadow = self._shadow
        actual: Cells = {}
        values = shadow.frames.values
        if len(self.pending) > 1:
            blocks = None  # One change may undo a part of another one.
        for change in self.pending:
            if change.frames:
                frames: Iterable[int] = change.frames
                if blocks is not None and len(change.frames) >= LARGE_FRAMES:
                    frames = _take_blocks(change.frames, values, blocks)
                for hfn in frames:
                    actual["frame", hfn] = frame_of(values[hfn])
                actual[FREE] = shadow.state_counts[FREE_STATE]
            # Only if the change adds large leaves and nothing else: so no cell is both here and in a block.
            large = blocks if blocks is not None and change.added and _all_large(change) else None
            for space, level, page, _ in change.removed:
                if level == 1:
                    actual["iova" if space & DMA else "page", space & ~DMA, page] = None
                else:
                    actual.update(dict.fromkeys(keys_of(space, level, page)))
            for leaf in change.added:
                _, space, level, page, frame, rights, foreign = leaf
                if level == 1:
                    if space & DMA:
                        actual["iova", space & ~DMA, page] = _io_page((frame, rights, foreign))
                    else:
                        actual["page", space, page] = _page((frame, rights, foreign))
                elif large is not None:
                    large.append(page_block(space, page, frame, rights, foreign))
                else:
                    actual.update(pages_of(leaf))
            for bdf in change.contexts:
                for number, device in enumerate(self._scene.machine.devices):
                    if device.bdf == bdf:
                        actual["device", number] = self._abstraction.cell(("device", number))
            # The tuples of the hypervisor have the same fields as those of the specification, so they compare equal.
            for number, ref, _, entry in change.entries:
                actual["grant", number, ref] = entry
            for number, handle, _, mapping in change.handles:
                actual["handle", number, handle] = mapping
        self.pending.clear()
        return actual


def _own_state(domain: Domain) -> tuple[Any, ...]:
    """The compared state of the domain itself. The console is copied, because it changes in place."""
    return domain.version, domain.clock_window, domain.clock_reads, bytes(domain.console)


def _all_large(change: Change) -> bool:
    """Whether the change only adds large leaves to the stage 2 of a domain."""
    if change.removed or len(change.added) > POPULATE_LARGE or change.added[0].level != LARGE_LEVEL:
        return False
    return all(leaf.level == LARGE_LEVEL and not leaf.space & DMA for leaf in change.added)


def _take_blocks(changed: Iterable[int], values: list[int], blocks: list[Block]) -> list[int]:
    """Move the blocks whose frames all have the same use to `blocks`; return the other changed frames."""
    ordered = sorted(changed)
    others: list[int] = []
    at = 0
    while at < len(ordered):
        first = ordered[at]
        last = at + LARGE_FRAMES - 1
        if first % LARGE_FRAMES == 0 and last < len(ordered) and ordered[last] == first + LARGE_FRAMES - 1:
            word = values[first]
            use = frame_of(word)
            if use is not None and values[first : first + LARGE_FRAMES].count(word) == LARGE_FRAMES:
                blocks.append(frame_block(first, use))
                at += LARGE_FRAMES
                continue
        others.append(first)
        at += 1
    return others
