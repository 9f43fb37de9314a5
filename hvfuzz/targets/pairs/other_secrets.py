"""The second run's machine: the host, and domains that are not observed, hold other secrets than in the first run."""

from collections.abc import Callable
from typing import Final

from hvfuzz.abi.boot import USER_GFN
from hvfuzz.hypervisor.core import canaries
from hvfuzz.hypervisor.core.boot import BOOT_SECRET, guest_address, plant_canaries
from hvfuzz.hypervisor.core.domains import Domain
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.cpu.registers import Reg

OTHER_SECRET: Final = 0x0DD5_EC2E_7BAD_F00D
"""The key from which the canaries of the second run derive."""
CONTENTS: Final = 3
"""The purpose of the words that fill memory and registers, beside those in `canaries`."""
ROOM: Final = 1 << 62
"""Cached translations of each kind: more than a run can make. Their capacity is no declared channel."""
KEPT_REGISTERS: Final = (Reg.RSP, Reg.RIP, Reg.RFLAGS)
"""Registers of a vCPU that hold no data."""


def with_room(hv: Hypervisor) -> None:
    """Keep every cached translation: no domain drops another's."""
    hv.machine.tlb.set_capacity(ROOM)
    hv.machine.iommu.set_capacity(ROOM)


def holding(concealed: frozenset[int]) -> Callable[[Hypervisor], None]:
    """What makes a booted system the second of a pair: other contents of the `concealed` domains.

    The system was booted with OTHER_SECRET; the other domains get the canaries of the first run back.
    """

    def prepare(hv: Hypervisor) -> None:
        with_room(hv)
        units = hv.work.units
        for domain, config in zip(hv.domains, hv.world.domains, strict=True):
            if domain.id in concealed:
                _fill(hv, domain, config.ram_pages)
            else:
                domain.canary = canaries.canary(BOOT_SECRET, canaries.DOMAIN, domain.id)
            plant_canaries(hv, domain, config.ram_pages)
        hv.work.units = units  # what is done here is no work of the host

    return prepare


def _fill(hv: Hypervisor, domain: Domain, ram_pages: int) -> None:
    """Give the domain other data: its user pages and all RAM behind them, and the registers of its vCPUs."""
    for gfn in range(USER_GFN, ram_pages):
        word = canaries.canary(OTHER_SECRET, CONTENTS, domain.id << 32 | gfn)
        hv.machine.memory.fill(guest_address(domain, gfn) >> PAGE_SHIFT, word)
    for vcpu in domain.vcpus:
        for register in Reg:
            if register not in KEPT_REGISTERS:
                vcpu.regs[register] = canaries.canary(OTHER_SECRET, CONTENTS, 1 << 48 | vcpu.id << 32 | register)
