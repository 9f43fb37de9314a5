"""Which cells of the abstract state may have changed in the machine since they were last looked at, and to what.

Frames, pages, devices, grants and mappings come from what the shadow noted. Run states, ports and what belongs to the
caller alone are compared with what they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import PORTS_PER_BUCKET
from hvfuzz.hypervisor.frames import FrameState
from hvfuzz.oracles.abstraction import STATES, Abstraction, frame_of, keys_of, pages_of
from hvfuzz.oracles.spec import FREE, Key, Value

if TYPE_CHECKING:
    from hvfuzz.hypervisor.domains import Bucket
    from hvfuzz.oracles.change import Change
    from hvfuzz.oracles.oracle import Scene
    from hvfuzz.oracles.reachability import Reachability

Cells = dict[Key, Value]


class Deltas:
    """Keeps what is needed to tell. Each method reports a change once."""

    __slots__ = (
        "_abstraction",
        "_base_buckets",
        "_base_ports",
        "_base_runs",
        "_buckets",
        "_ports",
        "_runs",
        "_scene",
        "_shadow",
        "changes",
    )

    def __init__(self, scene: Scene, shadow: Reachability, abstraction: Abstraction) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._abstraction: Final = abstraction
        self.changes: Final[list[Change]] = []
        """Changes of the shadow that were not asked about yet."""
        self._runs: list[int] = []
        self._base_runs: list[int] = []
        self._buckets: list[list[Bucket | None]] = []
        self._base_buckets: list[list[Bucket | None]] = []
        self._ports: dict[tuple[int, int], list[Any]] = {}
        """(domain, bucket) -> its ports."""
        self._base_ports: dict[tuple[int, int], list[Any]] = {}

    def attach(self) -> None:
        """What there is now is known."""
        self._base_runs = [vcpu.runnable for vcpu in self._scene.machine.vcpus]
        self._base_buckets = [list(domain.buckets) for domain in self._shadow.domains]
        self._base_ports = {
            (number, index): list(bucket.ports)
            for number, buckets in enumerate(self._base_buckets)
            for index, bucket in enumerate(buckets)
            if bucket is not None
        }
        self.reset()

    def reset(self) -> None:
        """The machine is back at its snapshot."""
        self.changes.clear()
        self._runs = self._base_runs
        self._buckets = list(self._base_buckets)
        self._ports = dict(self._base_ports)

    def runs(self) -> Cells:
        """Virtual CPUs that changed their run state."""
        vcpus = self._scene.machine.vcpus
        runs = [vcpu.runnable for vcpu in vcpus]
        before = self._runs
        if runs == before:
            return {}
        self._runs = runs
        return {
            ("vcpu", vcpu.domain, vcpu.index): STATES[run]
            for vcpu, run, old in zip(vcpus, runs, before, strict=True)
            if run != old
        }

    def look_at_ports(self, actual: Cells) -> None:
        """Add the buckets and ports that changed to `actual`."""
        saved = self._buckets
        for number, domain in enumerate(self._shadow.domains):
            if domain.buckets != saved[number]:
                buckets = list(domain.buckets)
                for index, (old, new) in enumerate(zip(saved[number], buckets, strict=True)):
                    if old is not new:
                        actual["bucket", number, index] = None if new is None else new.page
                        self._note_ports(actual, number, index, new)
                saved[number] = buckets
        for (number, index), ports in list(self._ports.items()):
            bucket = saved[number][index]
            if bucket is not None and bucket.ports != ports:
                self._note_ports(actual, number, index, bucket)

    def _note_ports(self, actual: Cells, number: int, index: int, bucket: Bucket | None) -> None:
        """Compare the ports of one bucket with what they were."""
        before = self._ports.pop((number, index), [None] * PORTS_PER_BUCKET)
        after = [None] * PORTS_PER_BUCKET if bucket is None else list(bucket.ports)
        for offset, (old, new) in enumerate(zip(before, after, strict=True)):
            if old != new:
                key = ("port", number, index * PORTS_PER_BUCKET + offset)
                actual[key] = self._abstraction.cell(key)
        if bucket is not None:
            self._ports[number, index] = after

    def noted(self) -> Cells:
        """The cells that the collected changes concern, as they are now; the changes are used up."""
        shadow = self._shadow
        actual: Cells = {}
        values = shadow.frames.values
        for change in self.changes:
            if change.frames:
                for hfn in change.frames:
                    actual["frame", hfn] = frame_of(values[hfn])
                actual[FREE] = shadow.state_counts[FrameState.FREE]
            for space, level, page, _ in change.removed:
                actual.update(dict.fromkeys(keys_of(space, level, page)))
            for leaf in change.added:
                actual.update(pages_of(leaf))
            for bdf in change.contexts:
                for number, device in enumerate(self._scene.machine.devices):
                    if device.bdf == bdf:
                        actual["device", number] = self._abstraction.cell(("device", number))
            # The hypervisor's tuples have the fields of the specification's, and are compared as tuples.
            for number, ref, _, entry in change.entries:
                actual["grant", number, ref] = entry
            for number, handle, _, mapping in change.handles:
                actual["handle", number, handle] = mapping
        self.changes.clear()
        return actual
