"""Confidentiality: nobody sees a secret word of the hypervisor's heap, or of a domain that shared nothing with it.

Each domain's memory holds its canary, each heap page of the hypervisor has one of its own. A canary is looked for
where data reaches a guest: in what it loads, in its registers after an exit, in what is copied to it, and in frames
that become its own. A domain that grants a frame, or is granted one, may pass on what it knows: from then on the
two, and whoever they had dealings with, are one group, in which domain canaries are no secret. Fresh frames are
judged more strictly: they hold nothing at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import RAX, RCX, RDX, Reg
from hvfuzz.machine.memory import ZERO_PAGE
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.rewindable import ShadowMap

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

HEAP: Final = -1
"""In place of a domain: the hypervisor's."""
RBX: Final = int(Reg.RBX)
CANARY_BITS: Final = 1 << 63 | 1 << 31
"""Set in every canary, so that none is a small number by chance."""
HALF: Final = 1 << 32
OWNED: Final = int(FrameState.OWNED)
HYPERVISOR: Final = int(FrameState.HYPERVISOR)
FIRST_NO_DOMAIN: Final = 0xFE
"""Owners from here on are no domains."""


class Secrets(Oracle):
    """No guest ever sees another's canary."""

    name = "secrets"
    shadowed = True
    rules: ClassVar[Rules] = {
        "load": "what a guest loads is no secret of another's",
        "register": "no exit leaves a secret, or half of one, in a register",
        "copied": "what the hypervisor copies to a guest holds no secret of another's",
        "canary": "a frame that becomes a domain's holds no secret",
        "residue": "a frame that becomes a domain's is zero",
        "device": "a device that changes hands is as after power-on: nothing of its last user is left",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._canaries: ShadowMap[int, int] = ShadowMap()
        """Secret word -> the domain whose it is, or HEAP."""
        self._halves: ShadowMap[int, int] = ShadowMap()
        """The same for the two halves of each word."""
        self._groups: list[int] = []
        """Domain -> the domains, as bits, that it may have shared something with."""
        self._fresh: dict[int, None] = {}
        """Frames of domains that were allocated, and looked at, since the last change."""
        self._fresh_blocks: dict[int, None] = {}
        """Hfn >> 9 of blocks of such frames."""
        self._pristine: set[int] = set()
        """Frames that were seen to be zero while nobody had written to them since the snapshot: so they always are."""
        self._dirty = scene.machine.memory.dirty
        self._power_on: dict[int, tuple[list[int], bytes]] = {}
        """Registers and memory of each device, by bdf."""

    def attach(self) -> None:
        """Learn the secrets that there are at boot."""
        hypervisor = self.scene.hypervisor
        for domain in self.shadow.domains:
            self._learn(domain.canary, domain.id)
        self._learn(hypervisor.canary, HEAP)
        for hfn, word in enumerate(self.shadow.frames.values):
            if word >> 8 & 0xFF == HYPERVISOR and not self._is_frame_table(hfn):
                self._learn_page(hfn)
        devices = self.scene.machine.devices
        self._power_on = {device.bdf: (list(device.registers), bytes(device.private)) for device in devices}
        self._pristine.clear()
        self._canaries.rebase()
        self._halves.rebase()
        self.reset()

    def reset(self) -> None:
        """Nobody shared anything yet."""
        self._canaries.reset()
        self._halves.reset()
        self._groups = [1 << domain.id for domain in self.shadow.domains]
        self._fresh.clear()
        self._fresh_blocks.clear()

    def _is_frame_table(self, hfn: int) -> bool:
        first = self.scene.frame_words >> 9
        return hfn == 0 or first <= hfn <= self.scene.frame_words + len(self.shadow.frames.values) - 1 >> 9

    def _learn(self, word: int, owner: int) -> None:
        self._canaries.put(word, owner)
        self._halves.put(word >> 32, owner)
        self._halves.put(word & HALF - 1, owner)

    def _learn_page(self, hfn: int) -> None:
        """A heap page of the hypervisor's: its secret is its first word."""
        word = self.scene.words[hfn << 9]
        if word:
            self._learn(word, HEAP)

    def _secret_from(self, owner: int, domain: int) -> bool:
        """Whether `domain` must not know what is `owner`'s."""
        return owner == HEAP or not self._groups[domain] >> owner & 1

    # What a guest sees.

    def guest_load(self, vcpu: VCpu, hpa: int, size: int) -> None:
        """A guest is about to load: look at the words that it will get."""
        word = hpa >> 3
        last = (hpa + size - 1) >> 3
        words = self.scene.words
        if hpa + size > self.scene.machine.memory.size:
            return
        if words[word] in self._canaries or (last != word and words[last] in self._canaries):
            self._loaded(vcpu.domain, word, last)

    def _loaded(self, domain: int, word: int, last: int) -> None:
        for value in self.scene.words[word : last + 1].tolist():
            owner = self._canaries.get(value, domain)
            if self._secret_from(owner, domain):
                self.report("load", f"dom{domain} loads the secret of {_name(owner)}")

    def exit_finished(self, vcpu: VCpu) -> None:
        """The host is done with an exit: look at the registers that it may have set."""
        saved = vcpu.vmcs.saved
        if (saved[RAX] | saved[RBX] | saved[RCX] | saved[RDX]) & CANARY_BITS:
            regs, halves = vcpu.regs, self._halves
            for register in (RAX, RBX, RCX, RDX):
                value = saved[register]
                # What did not change, the guest put there itself.
                if value != regs[register] and (value >> 32 in halves or value & HALF - 1 in halves):
                    self._in_register(vcpu, register, value)

    def _in_register(self, vcpu: VCpu, register: int, value: int) -> None:
        for half in (value >> 32, value & HALF - 1):
            owner = self._halves.get(half, vcpu.domain)
            if self._secret_from(owner, vcpu.domain):
                name = Reg(register).name
                self.report("register", f"dom{vcpu.domain} finds a secret of {_name(owner)} in {name}")
                return

    def unusual_copies(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """Look at what was copied."""
        call = self.scene.calls.current
        for _, data in call.writes:
            self._look_at_copy(vcpu.domain, data)
        for data in call.transfers:
            self._look_at_copy(vcpu.domain, data)

    def _look_at_copy(self, domain: int, data: bytes) -> None:
        for secret, owner in self._canaries.items():
            if secret.to_bytes(8, "little") in data and self._secret_from(owner, domain):
                self.report("copied", f"a secret of {_name(owner)} is copied for dom{domain}")
                return

    # Frames.

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """A frame is in use: a domain's must be zero at this moment, a heap page has a new secret."""
        if owner < FIRST_NO_DOMAIN:
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
        """As for each of its frames; nearly always it is known of all of them that they are zero."""
        frames = range(first, first + LARGE_FRAMES)
        known = self._dirty.isdisjoint(frames) and self._pristine.issuperset(frames)
        if known and owner < FIRST_NO_DOMAIN and state == OWNED:
            self._fresh_blocks[first >> 9] = None
            return
        for hfn in frames:
            self.frame_allocated(hfn, owner, state)

    def _judge_fresh(self, hfn: int, owner: int) -> None:
        words = self.scene.words[hfn << 9 : (hfn << 9) + WORDS_PER_PAGE].tolist()
        for word in words:
            whose = self._canaries.get(word, owner)
            if whose != owner:
                self.report("canary", f"fresh {self.scene.describe(hfn)} holds a secret of {_name(whose)}")
                return
        self.report("residue", f"fresh {self.scene.describe(hfn)} is not zero")

    def shadow_changed(self, change: Change) -> None:
        """Frames changed owner, or grants changed."""
        values = self.shadow.frames.values
        fresh, fresh_blocks = self._fresh, self._fresh_blocks
        frames = change.scattered
        for block, (old, new) in change.blocks.items():
            transferred = (old ^ new) & 0xFF and new & 0xFF < FIRST_NO_DOMAIN and new >> 8 & 0xFF >= OWNED
            if transferred and block not in fresh_blocks:
                frames = change.frames
                break
        for hfn, old in frames.items():
            new = values[hfn]
            transferred = (old ^ new) & 0xFF and new & 0xFF < FIRST_NO_DOMAIN and new >> 8 & 0xFF >= OWNED
            if transferred and hfn not in fresh and hfn >> 9 not in fresh_blocks:
                self._judge_transferred(hfn, new & 0xFF)
        fresh.clear()
        fresh_blocks.clear()
        for bdf in change.contexts:
            self._check_device(bdf)
        for number, _, _, entry in change.entries:
            if entry is not None:
                self._join(number, entry.to)

    def _judge_transferred(self, hfn: int, owner: int) -> None:
        """A frame became a domain's, and nobody said that it was allocated."""
        if self.scene.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) == ZERO_PAGE or owner >= len(self._groups):
            return
        for word in self.scene.words[hfn << 9 : (hfn << 9) + WORDS_PER_PAGE].tolist():
            whose = self._canaries.get(word, owner)
            if self._secret_from(whose, owner):
                self.report("canary", f"{self.scene.describe(hfn)} holds a secret of {_name(whose)}")
                return

    def _check_device(self, bdf: int) -> None:
        """A device was assigned or deassigned."""
        for device in self.scene.machine.devices:
            if device.bdf != bdf:
                continue
            registers, private = self._power_on[bdf]
            if device.registers != registers:
                self.report("device", f"registers of device {bdf:#06x}: {device.registers}")
            elif device.private != private:
                self.report("device", f"something is left in the memory of device {bdf:#06x}")

    def _join(self, one: int, other: int) -> None:
        """The two domains may pass on to each other what they know."""
        groups = self._groups
        if not (0 <= one < len(groups) and 0 <= other < len(groups)):
            return
        joined = groups[one] | groups[other]
        self._groups = [joined if joined >> domain & 1 else group for domain, group in enumerate(groups)]


def _name(owner: int) -> str:
    return "the hypervisor" if owner == HEAP else f"dom{owner}"
