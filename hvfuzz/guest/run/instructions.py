"""Execution of each instruction kind on a vCPU, as the guest's own code would execute it.

Each function takes the vCPU and the arguments, in the order of the kind's fields, and returns the value that the
guest read, or None. It raises GuestFault for an exception that is delivered to the guest.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from hvfuzz.abi.boot import DIRECT_MAP, MMIO_BASE, MMIO_SIZE
from hvfuzz.guest.program.argument_kinds import SIZES, TIMES_MAX
from hvfuzz.machine.addresses import PAGE_SHIFT, SIZE_MASK, U64, Gva
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.mmu.paging import ADDRESS, PS, P

Instruction: TypeAlias = Callable[[VCpu, Sequence[int]], int | None]


class Unreachable(Exception):
    """The op cannot be performed: the guest's page tables lack what it accesses."""


def _size(size: int) -> int:
    return size if size in SIZES else 8


def _load(vcpu: VCpu, values: Sequence[int]) -> int:
    return vcpu.load(Gva(values[0]), _size(values[1]))


def _store(vcpu: VCpu, values: Sequence[int]) -> None:
    size = _size(values[1])
    vcpu.store(Gva(values[0]), size, values[2] & SIZE_MASK[size])


def _execute(vcpu: VCpu, values: Sequence[int]) -> None:
    vcpu.execute(Gva(values[0]))


def _pte(vcpu: VCpu, values: Sequence[int]) -> None:
    """Walk the guest's page tables through the direct map, as its kernel would, and store the entry."""
    gva, level, entry = values
    if not 1 <= level <= 4:
        raise Unreachable
    table = vcpu.cr3 & ADDRESS
    for step in range(4, level, -1):
        slot = (gva >> (PAGE_SHIFT + 9 * (step - 1))) & 0x1FF
        word = vcpu.load(Gva((DIRECT_MAP + table + 8 * slot) & U64), 8)
        if not word & P or word & PS:
            raise Unreachable
        table = word & ADDRESS
    slot = (gva >> (PAGE_SHIFT + 9 * (level - 1))) & 0x1FF
    vcpu.store(Gva((DIRECT_MAP + table + 8 * slot) & U64), 8, entry)


def _register(device: int, register: int) -> Gva:
    return Gva(DIRECT_MAP + MMIO_BASE + device * MMIO_SIZE + register)


def _mmio_read(vcpu: VCpu, values: Sequence[int]) -> int:
    return vcpu.load(_register(values[0], values[1]), _size(values[2]))


def _mmio_write(vcpu: VCpu, values: Sequence[int]) -> None:
    size = _size(values[2])
    vcpu.store(_register(values[0], values[1]), size, values[3] & SIZE_MASK[size])


def _port_size(size: int) -> int:
    return min(_size(size), 4)


def _string(values: Sequence[int]) -> tuple[int, int]:
    return values[2], min(values[3], TIMES_MAX)


def _out(vcpu: VCpu, values: Sequence[int]) -> None:
    size = _port_size(values[1])
    vcpu.out(values[0], size, values[2] & SIZE_MASK[size])


INSTRUCTIONS: Final[Mapping[str, Instruction]] = MappingProxyType(
    {
        "load": _load,
        "store": _store,
        "execute": _execute,
        "pte": _pte,
        "mmio_read": _mmio_read,
        "mmio_write": _mmio_write,
        "cpuid": lambda vcpu, values: vcpu.cpuid(values[0]),
        "hlt": lambda vcpu, values: vcpu.hlt(),
        "pause": lambda vcpu, values: vcpu.pause(),
        "in": lambda vcpu, values: vcpu.inp(values[0], _port_size(values[1])),
        "out": _out,
        "syscall": lambda vcpu, values: vcpu.syscall(),
        "sysret": lambda vcpu, values: vcpu.sysret(),
        "mov_cr": lambda vcpu, values: vcpu.mov_cr(values[0], values[1]),
        "invlpg": lambda vcpu, values: vcpu.invlpg(Gva(values[0])),
        "rdmsr": lambda vcpu, values: vcpu.rdmsr(values[0]),
        "wrmsr": lambda vcpu, values: vcpu.wrmsr(values[0], values[1]),
        "cli": lambda vcpu, values: vcpu.cli(),
        "sti": lambda vcpu, values: vcpu.sti(),
        "cpuid_count": lambda vcpu, values: vcpu.cpuid(values[0], values[1]),
        "rdtsc": lambda vcpu, values: vcpu.rdtsc(),
        "rdtscp": lambda vcpu, values: vcpu.rdtscp(),
        "sysenter": lambda vcpu, values: vcpu.sysenter(),
        "sysexit": lambda vcpu, values: vcpu.sysexit(),
        "swapgs": lambda vcpu, values: vcpu.swapgs(),
        "iret": lambda vcpu, values: vcpu.iret(),
        "ins": lambda vcpu, values: vcpu.ins(values[0], _port_size(values[1]), *_string(values)),
        "outs": lambda vcpu, values: vcpu.outs(values[0], _port_size(values[1]), *_string(values)),
        "lidt": lambda vcpu, values: vcpu.lidt(values[0], values[1]),
        "ltr": lambda vcpu, values: vcpu.ltr(values[0], values[1]),
        "int": lambda vcpu, values: vcpu.interrupt(values[0]),
        "read_cr": lambda vcpu, values: vcpu.read_cr(values[0]),
        "invpcid": lambda vcpu, values: vcpu.invpcid(values[0], values[1], values[2]),
    }
)
