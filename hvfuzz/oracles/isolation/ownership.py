"""Isolation: a domain and its devices reach only frames that the domain owns or that were granted to it.

This is checked in two ways. Each leaf of the tables is checked when it appears, and again when the frame it names
changes its owner or state, or its grant is removed. And each access is checked against the frame table when it happens,
which also catches an access through a stale translation.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Final

from hvfuzz.abi.boot import DEVICES, MMIO_BASE, MMIO_SIZE
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, WRITE, rights_text
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu.ept import eptp_of
from hvfuzz.machine.vtd.legacy_mode import context_entry
from hvfuzz.oracles.exits.emulation import is_shutdown
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.isolation.entitlements import Entitlements
from hvfuzz.oracles.isolation.leaf_checks import LeafChecks
from hvfuzz.oracles.principal.copy_ends import CopyEnds
from hvfuzz.oracles.scene.call_stack import NO_DOMAIN
from hvfuzz.oracles.scene.running_call import NO_GVA
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import DMA, DMA_LEVELS, context_of, name_of
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.changes import Change

_eptp = attrgetter("eptp")
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
PINS: Final = 4
"""Index of the first pin count in a grant entry; the fields before it say what is granted, and to whom."""
MMIO_WINDOW: Final = range(MMIO_BASE, MMIO_BASE + DEVICES * MMIO_SIZE)


class Ownership(Oracle):
    """Every frame that a domain can reach belongs to it, or is granted to it with those rights."""

    name = "ownership"
    shadowed = True
    rules: ClassVar[Rules] = {
        "free": "no leaf names a free frame",
        "hypervisor": "no leaf names a frame of the hypervisor",
        "table": "no leaf names a page of the tables that hardware walks",
        "pool": "no leaf names a page of a paging pool",
        "foreign": "no leaf names another domain's frame, unless it is granted at that page",
        "rights": "a leaf of a grant mapping has no right that the grant does not give",
        "reserved": "memory reserved for a device is mapped 1:1 for the domain of the device, and nowhere else",
        "registers": "no leaf names registers of a device, except in the DMA tables of the domain that has the device",
        "nowhere": "no leaf names memory that does not exist",
        "tree": "a table page is linked once, and is in state TABLE with that domain as its owner",
        "entry": "an entry that names a table gives all rights, a leaf is write-back, neither has reserved bits",
        "pointer": "the EPTP of each vCPU names its domain's tables: 4 levels, write-back, no accessed and dirty flags",
        "context": "a context entry translates requests by the DMA tables of one domain, with its domain id",
        "access": "no guest or device accesses a frame in a way that its domain may not",
        "initiator": "an exit of one domain starts no device of another domain",
        "mmio": "no guest reaches the registers of a device that its domain does not have",
        "moment": "between two writes of the hypervisor, tables and context entries allow no more, and no less",
        "quiet": "a device is reset after it lost its domain, and before it gets another one; its memory is zero then",
        "copy": "the hypervisor copies on behalf of a domain only from and to frames that the domain may access",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._calls = scene.calls
        self._size = scene.memory_size
        self._kinds = scene.owner_and_state
        self._own = scene.own_frame
        self._vcpus = scene.machine.vcpus
        self._entitlements = Entitlements(scene, shadow)
        self._ends = CopyEnds(scene, shadow)
        self._leaf_checks = LeafChecks(scene, shadow, self._entitlements, self.report)
        self._pointers: list[int] = []
        """The EPT pointer that each vCPU must always have."""

    def attach(self) -> None:
        """Learn the roots of the EPTs."""
        self._pointers = [eptp_of(self.shadow.roots[vcpu.domain] << PAGE_SHIFT) for vcpu in self._vcpus]

    # The tables.

    def shadow_changed(self, change: Change) -> None:
        """Check the leaves, tables and contexts that this change concerns."""
        # Most changes are small and of one kind, so each kind is tested for first.
        if change.added:
            self._leaf_checks.check_leaves(change.added)
        if change.frames:
            self._leaf_checks.check_users(change)
        if change.tables or change.misplaced:
            for hfn in change.linked:
                self._leaf_checks.check_table(hfn)
            for table, hfn, why in change.misplaced:
                self._leaf_checks.report_misplaced(table, hfn, why)
        for number, _, mapping, _ in change.handles:
            if mapping is not None:
                self._leaf_checks.check_sides(number, mapping)
        for number, ref, old_entry, entry in change.entries:
            if old_entry is not None and (entry is None or entry[:PINS] != old_entry[:PINS]):
                self._leaf_checks.check_granted(number, ref)
        for bdf in change.contexts:
            self.check_context(bdf)
        if change.contexts:
            self._leaf_checks.check_registers()
        if self._entitlements.reserved and (change.contexts or change.removed or change.added):
            self._check_reserved()
        for word in change.malformed:
            self._leaf_checks.check_entry(word)
        if list(map(_eptp, self._vcpus)) != self._pointers:
            self._check_pointers()

    def _check_pointers(self) -> None:
        """The EPT pointer of each vCPU must be its domain's."""
        for vcpu, pointer in zip(self._vcpus, self._pointers, strict=True):
            if vcpu.eptp != pointer:
                who = f"vCPU {vcpu.index} of dom{vcpu.domain}"
                self.report("pointer", f"{who} has EPTP {vcpu.eptp:#x}, its domain has {pointer:#x}")

    def _check_reserved(self) -> None:
        """Memory reserved for a device must be mapped for the domain that has the device, and for no other domain."""
        for bdf, first, pages in self._entitlements.reserved:
            owner = self.shadow.device_domain(bdf)
            for page in range(first, first + pages):
                for domain in self.shadow.domains:
                    leaf = self.shadow.find(domain.id | DMA, page)
                    kept = leaf is not None and leaf.frame == page and leaf.rights == READ | WRITE
                    if kept != (domain.id == owner) or (leaf is not None and not kept):
                        what = (
                            "nothing" if leaf is None else f"frame {leaf.frame:#x}, rights {rights_text(leaf.rights)}"
                        )
                        device = f"device {bdf:#06x} of {'no domain' if owner < 0 else f'dom{owner}'}"
                        where = f"{name_of(domain.id | DMA)}, page {page:#x}"
                        self.report("reserved", f"{where}: mapped to {what}, reserved for {device}")

    def check_context(self, bdf: int) -> None:
        """The context entry of a device must be that of a domain."""
        context = self.shadow.contexts.get(bdf)
        if context is None:
            return
        domain = self.shadow.device_domain(bdf)
        if domain < 0 or context != context_of(*context_entry(domain + 1, context.root, DMA_LEVELS)):
            text = f"table {context.root:#x}, domain id {context.did}, other bits {context.low:#x}, {context.high:#x}"
            table = "which is the table of no domain" if domain < 0 else f"where the table is that of dom{domain}"
            self.report("context", f"the context entry of device {bdf:#06x} has {text}, {table}")

    # Accesses.

    def dma_or_foreign_access(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """Check an access that is about to be made."""
        if isinstance(initiator, VCpu):
            space = initiator.domain
        else:
            owner = self.shadow.device_domain(initiator.bdf)  # type: ignore[attr-defined]
            exiting = self._calls.exiting
            if owner not in (exiting, NO_DOMAIN) and exiting != NO_DOMAIN and not self._calls.awake:
                self.report("initiator", f"a device of dom{owner} accesses memory in an exit of dom{exiting}")
            space = owner | DMA
        hfn = hpa >> PAGE_SHIFT
        if (hpa & PAGE_MASK) + size > PAGE_SIZE:
            # An access across two pages: correct guests and devices make none.
            self._check_access(space, hpa + size - 1 >> PAGE_SHIFT, access)
        if hpa < self._size and space >= 0 and self._kinds[hfn] in self._own[space & ~DMA]:
            return
        self._check_access(space, hfn, access)

    def _check_access(self, space: int, hfn: int, access: int) -> None:
        """Check an access to one frame."""
        if space < 0:
            self.report("access", f"a device of no domain accesses {self.scene.describe(hfn)}")
        elif not self._entitlements.owns(space & 0xFF, hfn) and not self._entitlements.may_access(space, hfn, access):
            if space & DMA and (
                self._entitlements.is_reserved_for(space & ~DMA, hfn)
                or self._entitlements.has_registers(space & ~DMA, hfn)
            ):
                return
            self.report("access", f"{name_of(space)}: access to {self.scene.describe(hfn)}")

    def trap_finished(self, vcpu: VCpu) -> None:
        """If an EPT violation was emulated as an access to registers, the device must be the domain's."""
        fields = self._calls.exit
        if fields.reason is not EPT_VIOLATION or fields.gpa not in MMIO_WINDOW:
            return
        # With a fault or a shutdown pending, nothing was emulated.
        if vcpu.pending_fault is None and not is_shutdown(fields):
            number = (fields.gpa - MMIO_BASE) // MMIO_SIZE
            if self.shadow.device_domain(self.scene.machine.devices[number].bdf) != vcpu.domain:
                self.report(
                    "mmio", f"the hypervisor emulates an access by dom{vcpu.domain} to the registers of device {number}"
                )

    def foreign_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Check a copy that is not within one frame of the caller's domain."""
        for hfn in dict.fromkeys((hpa >> PAGE_SHIFT, hpa + size - 1 >> PAGE_SHIFT)):
            if not self._entitlements.owns(vcpu.domain, hfn) and not self._may_copy(vcpu, gva, hfn, write):
                text = f"copies {'to' if write else 'from'} {self.scene.describe(hfn)} on behalf of dom{vcpu.domain}"
                self.report("copy", f"the hypervisor {text}")

    def _may_copy(self, vcpu: VCpu, gva: int, hfn: int, write: bool) -> bool:
        """Whether a grant gives the vCPU the frame of a copy.

        At a guest address it must be mapped; whether the address leads to that mapping is judged by `fetch`. Without an
        address it must be what the running `grant.copy` names: an entry, or a page that is such a mapping.
        """
        access = WRITE if write else READ
        if gva != NO_GVA:
            return self._entitlements.may_access(vcpu.domain, hfn, access)
        end = self._ends.named(vcpu, write)
        if end is None or end.hpa >> PAGE_SHIFT != hfn:
            return False
        return end.gfn < 0 or self._entitlements.may_access(vcpu.domain, hfn, access, end.gfn)

    def audit(self) -> None:
        """Check every leaf, table and context entry."""
        shadow = self.shadow
        self._leaf_checks.audit()
        for bdf in sorted(shadow.contexts):
            self.check_context(bdf)
        iommu = self.scene.machine.iommu
        if not iommu.enabled or iommu.root_table >> PAGE_SHIFT not in shadow.iommu_frames:
            self.report(
                "context", f"the IOMMU is {'on' if iommu.enabled else 'off'} with root table {iommu.root_table:#x}"
            )
        self._check_reserved()
        self._check_pointers()
