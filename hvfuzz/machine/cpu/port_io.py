"""Port I/O: IN and OUT of one element, INS and OUTS of a string of them (SDM Vol. 1, ch. 19; Vol. 3C, 28.2.1)."""

from typing import Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.exceptions import Delivery
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.rings import IOPL_SHIFT
from hvfuzz.machine.cpu.vmcs import RAX, RCX, RDI, RDX, RFLAGS, RSI, ExitReason
from hvfuzz.machine.mmu import paging

_STRING_AND_REP: Final = 0x30


class PortIo(Delivery):
    """A vCPU that reads and writes ports."""

    __slots__ = ()

    def inp(self, port: int, size: int) -> int:
        """IN: `size` (1, 2, 4) bytes of a port into RAX, and returned; all ones if not intercepted."""
        mask = (1 << (size << 3)) - 1
        if self._port(port, size, False):
            return self.regs[RAX] & mask
        self.regs[RAX] = mask
        return mask

    def out(self, port: int, size: int, value: int) -> None:
        """OUT of the low `size` (1, 2, 4) bytes of `value`, which goes to RAX first; lost if not intercepted."""
        self.regs[RAX] = value & ((1 << (size << 3)) - 1)
        self._port(port, size, True)

    def ins(self, port: int, size: int, gva: int, count: int) -> int:
        """REP INS: `count` elements of `size` bytes from a port to memory at `gva`; returns how many are left."""
        return self._string(port, size, RDI, gva, count)

    def outs(self, port: int, size: int, gva: int, count: int) -> int:
        """REP OUTS: likewise from memory to a port."""
        return self._string(port, size, RSI, gva, count)

    def _string(self, port: int, size: int, register: int, gva: int, count: int) -> int:
        """Exits until the count is done, or an exit moves nothing; each leaves RCX and the address where it came to."""
        self._may_use_ports(size)
        regs, vmcs = self.regs, self.vmcs
        regs[RDX], regs[register], regs[RCX] = port & 0xFFFF, gva & U64, count & U64
        while regs[RCX]:
            left = regs[RCX]
            self._port_operand(port, size, register == RSI)
            vmcs.string = True
            vmcs.operand = regs[register]
            vmcs.qualification |= _STRING_AND_REP
            if not self._intercepted(ExitReason.IO, 2):
                self._string_of_nothing(register, size)
            if regs[RCX] == left:
                break
        return regs[RCX]

    def _string_of_nothing(self, register: int, size: int) -> None:
        """One element, where nothing answers at the port: what is read is ones, what is written is lost."""
        regs = self.regs
        kept = regs[RAX]
        if register == RDI:
            self.store(regs[RDI], size, (1 << (size << 3)) - 1)
        else:
            self.load(regs[RSI], size)
        regs[RAX] = kept
        regs[register] = regs[register] + (-size if regs[RFLAGS] & paging.RFLAGS_DF else size) & U64
        regs[RCX] -= 1

    def _port(self, port: int, size: int, write: bool) -> bool:
        """Whether an exit handler saw to this access to a port."""
        self._may_use_ports(size)
        self._port_operand(port, size, write)
        self.vmcs.string = False
        return self._intercepted(ExitReason.IO, 1)

    def _may_use_ports(self, size: int) -> None:
        """#UD for a size that there is not, #GP(0) without the I/O privilege."""
        if size not in (1, 2, 4):
            self._refuse(Vector.UD)
        if self.cpl > self.regs[RFLAGS] >> IOPL_SHIFT & 3:
            self._refuse(Vector.GP)  # There is no TSS, hence no I/O permission bit map.

    def _port_operand(self, port: int, size: int, write: bool) -> None:
        vmcs = self.vmcs
        vmcs.port = port & 0xFFFF
        vmcs.width = size
        vmcs.write = write
        # SDM Vol. 3C, table 28-5: bits 2..0 size - 1, bit 3 direction, bit 4 string, bit 5 REP, bits 31..16 port.
        vmcs.qualification = (size - 1) | (0 if write else 8) | vmcs.port << 16
