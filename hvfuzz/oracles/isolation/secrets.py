"""Confidentiality: no domain sees a secret of the hypervisor's heap, or of a domain that shared nothing with it.

The memory of each domain holds its canary, and each heap page of the hypervisor has a canary of its own. Canaries are
searched for, at any byte offset, where data leaves its owner: in loads, in registers after an exit, in copies, strings,
serial ports and consoles, in what devices move, and in frames that change hands. Fresh frames are judged more strictly:
they must be zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, WORD
from hvfuzz.machine.cpu.registers import RAX, RCX, RDX, Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.physical_memory import ZERO_PAGE
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.isolation import booted_memory
from hvfuzz.oracles.isolation.canary_search import HEAP, WIDE, Canaries, owner_name
from hvfuzz.oracles.isolation.ways_out import WaysOut
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

RBX: Final = int(Reg.RBX)
SMALL: Final = 1 << 20
"""Values below hold no four bytes of a secret: those would begin with zeroes."""
ERRORS: Final = (1 << 64) - (1 << 16)
"""Values from here on are the negative numbers of statuses."""
AROUND: Final = 4
"""Bytes on each side of a load in which its part of a secret can continue."""
IO: Final = ExitReason.IO
OWNED: Final = int(FrameState.OWNED)
HYPERVISOR: Final = int(FrameState.HYPERVISOR)
NOT_A_DOMAIN: Final = 0xFE
"""Owners of frames from this number on are not domains."""


class Secrets(Oracle):
    """No guest ever sees a canary that it must not know."""

    name = "secrets"
    shadowed = True
    rules: ClassVar[Rules] = {
        "load": "what a guest loads is not a secret of another owner",
        "register": "no exit leaves a secret, or four bytes of one, in a register",
        "copied": "what the hypervisor copies to a guest holds no secret of another owner",
        "sent": "no secret of another owner goes out by a serial port, string I/O or a console",
        "dma": "a device reads, writes and keeps no secret of another owner than its domain",
        "canary": "a frame that is given to a domain holds no secret of another owner",
        "residue": "a frame that is given to a domain is zero; after boot it holds what the contract says",
        "device": "a device that changes hands is as after power-on: nothing of its last user is left",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._canaries = Canaries(scene.excused)
        self._ways_out = WaysOut(scene, shadow, self._canaries, self.report)
        self._fresh: dict[int, None] = {}
        """Frames that were allocated to domains, and checked, since the last change of the shadow."""
        self._fresh_blocks: dict[int, None] = {}
        """Hfn >> 9 of blocks of such frames."""
        self._pristine: set[int] = set()
        """Frames that were zero when checked, and not written since the snapshot: they are zero in every run."""
        self._dirty = scene.machine.memory.dirty
        self._power_on: dict[int, tuple[list[int], bytes]] = {}
        """Bdf of each device -> its registers and its memory after power-on."""

    def attach(self) -> None:
        """Learn the secrets of the booted system, and check what the memory of each domain holds."""
        for rule, text in booted_memory.faults(self.scene, self.shadow):
            self.report(rule, text)
        hypervisor = self.scene.hypervisor
        for domain in self.shadow.domains:
            self._canaries.learn(domain.canary, domain.id)
        self._canaries.learn(hypervisor.canary, HEAP)
        for hfn, word in enumerate(self.shadow.frames.values):
            if word >> 8 & 0xFF == HYPERVISOR and not self._is_frame_table(hfn):
                self._learn_page(hfn)
        devices = self.scene.machine.devices
        self._power_on = {device.bdf: (list(device.registers), bytes(device.private)) for device in devices}
        self._pristine.clear()
        self._canaries.rebase(domain.id for domain in self.shadow.domains)
        self._ways_out.attach()
        self.reset()

    def reset(self) -> None:
        """Forget new secrets, and what domains shared."""
        self._canaries.reset()
        self._ways_out.reset()
        self._fresh.clear()
        self._fresh_blocks.clear()

    def _is_frame_table(self, hfn: int) -> bool:
        first = self.scene.frame_words >> 9
        return hfn == 0 or first <= hfn <= self.scene.frame_words + len(self.shadow.frames.values) - 1 >> 9

    def _learn_page(self, hfn: int) -> None:
        """Learn the secret of a heap page: its first word."""
        word = self.scene.words[hfn << 9]
        if word:
            self._canaries.learn(word, HEAP)

    # What a guest sees.

    def guest_load(self, vcpu: VCpu, hpa: int, size: int) -> None:
        """Check what a guest is about to load, in the bytes around it: a secret can be loaded in pieces."""
        words = self.scene.words
        word = hpa >> 3
        last = hpa + size - 1 >> 3
        if hpa + size > self.scene.memory_size or not (words[word] or (last != word and words[last])):
            return
        start = max(hpa - AROUND, hpa & ~PAGE_MASK)
        end = min(hpa + size + AROUND, (hpa | PAGE_MASK) + 1)
        around = self.scene.machine.memory.read(start, end - start)
        if end - start - around.count(0) < WIDE:
            return  # Nearly always: a small number.
        # Longer than a word: four bytes beside the load are no evidence.
        owner = self._canaries.in_data(around.rjust(WORD + 1, b"\0"), vcpu.domain)
        if owner is not None:
            self.report("load", f"dom{vcpu.domain} loads a secret of {owner_name(owner)}")

    def exit_finished(self, vcpu: VCpu) -> None:
        """Check the registers that the hypervisor may have set."""
        # A value that did not change was put there by the guest. Small ones, and errors, are no part of a secret.
        saved, regs = vcpu.vmcs.saved, vcpu.regs
        if SMALL <= saved[RAX] < ERRORS and saved[RAX] != regs[RAX]:
            self._check_register(vcpu, RAX)
        if SMALL <= saved[RBX] < ERRORS and saved[RBX] != regs[RBX]:
            self._check_register(vcpu, RBX)
        if SMALL <= saved[RCX] < ERRORS and saved[RCX] != regs[RCX]:
            self._check_register(vcpu, RCX)
        if SMALL <= saved[RDX] < ERRORS and saved[RDX] != regs[RDX]:
            self._check_register(vcpu, RDX)

    def _check_register(self, vcpu: VCpu, register: int) -> None:
        owner = self._canaries.in_value(vcpu.vmcs.saved[register], WORD, vcpu.domain)
        if owner is not None:
            name = Reg(register).name
            self.report("register", f"dom{vcpu.domain} finds a secret of {owner_name(owner)} in {name}")

    def trap_finished(self, vcpu: VCpu) -> None:
        """Check what the exit copied, and what it sent out of a serial port."""
        copies = self.scene.calls.outside
        if copies.writes:
            self._check_copy(vcpu.domain, b"".join([data for _, data in copies.writes]))
        if vcpu.vmcs.reason is IO:
            if copies.reads:
                self._ways_out.string_sent(vcpu.domain, b"".join([data for _, data in copies.reads]))
            self._ways_out.port_used(vcpu.domain)

    def unusual_copies(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """Check what a call copied to the guest, and to its console."""
        call = self.scene.calls.current
        for _, data in call.writes:
            self._check_copy(vcpu.domain, data)
        for data in call.transfers:
            self._check_copy(vcpu.domain, data)
        if call.reads:
            self._ways_out.console_used(vcpu.domain)

    def _check_copy(self, domain: int, data: bytes) -> None:
        owner = self._canaries.in_data(data, domain)
        if owner is not None:
            self.report("copied", f"the hypervisor copies a secret of {owner_name(owner)} for dom{domain}")

    def dma_or_foreign_access(self, initiator: Any, hpa: int, size: int, access: int) -> None:
        """Check what a device reads or writes."""
        if not isinstance(initiator, VCpu):
            self._ways_out.device_access(initiator, hpa, size, access)

    def op_finished(self) -> None:
        """Check what devices wrote."""
        if self._ways_out.written:
            self._ways_out.check_written()

    def audit(self) -> None:
        """Check what devices keep."""
        self._ways_out.check_devices()

    # Frames.

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """Check that a domain's new frame is zero, and learn the secret of a new heap page."""
        if owner < NOT_A_DOMAIN:
            if state == OWNED:
                self._fresh[hfn] = None
                if hfn in self._dirty or hfn not in self._pristine:
                    if self.scene.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) != ZERO_PAGE:
                        self._judge_fresh(hfn, owner)
                    elif hfn not in self._dirty:
                        self._pristine.add(hfn)
        elif state == HYPERVISOR:
            self._learn_page(hfn)

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """See `frame_allocated`. Nearly always all frames of a block are known to be zero."""
        frames = range(first, first + LARGE_FRAMES)
        known = self._dirty.isdisjoint(frames) and self._pristine.issuperset(frames)
        if known and owner < NOT_A_DOMAIN and state == OWNED:
            self._fresh_blocks[first >> 9] = None
            return
        for hfn in frames:
            self.frame_allocated(hfn, owner, state)

    def _judge_fresh(self, hfn: int, owner: int) -> None:
        """Report a new frame that is not zero."""
        whose = self._canaries.in_data(self.scene.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE), owner)
        if whose is not None:
            self.report("canary", f"new {self.scene.describe(hfn)} holds a secret of {owner_name(whose)}")
            return
        self.report("residue", f"new {self.scene.describe(hfn)} is not zero")

    def shadow_changed(self, change: Change) -> None:
        """Check frames that changed hands without being allocated, and devices; note which domains share grants."""
        values = self.shadow.frames.values
        fresh, fresh_blocks = self._fresh, self._fresh_blocks
        frames = change.scattered
        for block, (old, new) in change.blocks.items():
            transferred = (old ^ new) & 0xFF and new & 0xFF < NOT_A_DOMAIN and new >> 8 & 0xFF >= OWNED
            if transferred and block not in fresh_blocks:
                frames = change.frames
                break
        for hfn, old in frames.items():
            new = values[hfn]
            transferred = (old ^ new) & 0xFF and new & 0xFF < NOT_A_DOMAIN and new >> 8 & 0xFF >= OWNED
            if transferred and hfn not in fresh and hfn >> 9 not in fresh_blocks:
                self._judge_transferred(hfn, new & 0xFF)
        fresh.clear()
        fresh_blocks.clear()
        for bdf in change.contexts:
            self._check_device(bdf)
        for number, _, _, entry in change.entries:
            if entry is not None:
                self._canaries.join(number, entry.to)

    def _judge_transferred(self, hfn: int, owner: int) -> None:
        """Check a frame that became a domain's without an announced allocation."""
        domains = len(self.shadow.domains)
        page = self.scene.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE)
        if page == ZERO_PAGE or owner >= domains:
            return
        whose = self._canaries.in_data(page, owner)
        if whose is not None:
            self.report("canary", f"{self.scene.describe(hfn)} holds a secret of {owner_name(whose)}")

    def _check_device(self, bdf: int) -> None:
        """Check a device that was assigned or deassigned."""
        for device in self.scene.machine.devices:
            if device.bdf != bdf:
                continue
            registers, private = self._power_on[bdf]
            if device.registers != registers:
                self.report("device", f"device {bdf:#06x} changed hands with registers {device.registers}")
            elif device.private != private:
                self.report("device", f"device {bdf:#06x} changed hands with data of its last user in its memory")
