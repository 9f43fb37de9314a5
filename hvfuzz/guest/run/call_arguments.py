"""Arguments of hypercalls as the guest passes them: an argument struct, and the arrays that it points to.

Both go to the vCPU's argument page (`hvfuzz.abi.boot`): the struct to its start, the arrays from ARG_ARRAYS on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from hvfuzz.abi.boot import ARG_ARRAYS, World, argument_page
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Layout
from hvfuzz.guest.program.argument_kinds import INTEGER_FORMAT
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Op, Ref, Value
from hvfuzz.guest.run.instructions import Unreachable
from hvfuzz.machine.addresses import PAGE_SIZE, SIZE_MASK, WRITE, Gva
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine


class NoRoom(Exception):
    """The arrays of a call do not fit into the argument page."""


class CallArguments:
    """Encodes the arguments of calls of one world's domains, and writes them to argument pages."""

    __slots__ = ("_layouts", "_machine", "_pages", "results")

    def __init__(self, machine: Machine, catalogue: Catalogue, world: World) -> None:
        self._machine: Final = machine
        self._layouts: Final = tuple(_layouts(catalogue, domain.abi_version) for domain in world.domains)
        """By domain number: the struct of each call, by opcode, at the domain's ABI version."""
        self._pages: Final = tuple(argument_page(index) for index in range(max(d.vcpus for d in world.domains)))
        """By vCPU index: the argument page."""
        self.results: list[int] = []
        """Results of the running program's ops, by index; 0 until an op succeeds."""

    def number(self, value: Value) -> int:
        """The number that an argument stands for; 0 for an array."""
        if isinstance(value, Ref):
            return self.results[value.op]
        return value if isinstance(value, int) else 0

    def array(self, values: Sequence[int | Ref], kind: Kind) -> bytes:
        """The elements of an array argument of this kind, little-endian."""
        element = kind.element
        width = element.width if element is not None else 8
        mask = SIZE_MASK[width]
        return struct.pack(f"<{len(values)}{INTEGER_FORMAT[width]}", *(self.number(value) & mask for value in values))

    def page(self, vcpu: VCpu) -> tuple[Gva, int]:
        """The Gva and Hpa of the vCPU's argument page, writable.

        Raises GuestFault if the guest's own page tables do not map it, Unreachable if it maps to device registers.
        """
        machine = self._machine
        page = self._pages[vcpu.index]
        try:
            hpa = machine.mmu.translate(vcpu, page, WRITE, False)
        except (EptViolation, EptMisconfiguration):
            vcpu.store(page, 8, 0)  # exits to the hypervisor as any store of the guest does
            try:
                # A spurious violation, from a stale paging-structure cache: the store reached memory.
                hpa = machine.mmu.translate(vcpu, page, WRITE, False)
            except (EptViolation, EptMisconfiguration):
                # The guest mapped a device's registers at its argument page.
                raise Unreachable from None
        observer = machine.access_observer
        if observer is not None:
            observer(vcpu, hpa, PAGE_SIZE, WRITE)
        return page, hpa

    def encode(self, op: Op, vcpu: VCpu, arrays: int) -> tuple[bytes, list[tuple[int, bytes]], int]:
        """The argument struct, each array with its offset in the argument page, and the offset after the last one.

        The arrays are placed one after another from offset `arrays` on. Raises NoRoom if one crosses the page's end.
        """
        if arrays > PAGE_SIZE:
            raise NoRoom
        kind, _, values, mangle, _ = op
        out: list[tuple[int, bytes]] = []
        numbers: list[int] = []
        for value in values:
            # Exact types rather than isinstance: a Ref is a tuple, too.
            if type(value) is int:
                numbers.append(value)
            elif type(value) is Ref:
                numbers.append(self.results[value.op])
            else:
                assert isinstance(value, tuple)
                data = self.array(value, kind.fields[len(numbers)].kind)
                if arrays + len(data) > PAGE_SIZE:
                    raise NoRoom
                numbers.append(self._pages[vcpu.index] + arrays)
                out.append((arrays, data))
                arrays = (arrays + len(data) + 7) & ~7
        layout = self._layouts[vcpu.domain][kind.code]
        if mangle is None:
            return layout.encode(numbers), out, arrays
        reserved = mangle.reserved or 0
        return layout.encode(numbers, size=mangle.size, version=mangle.version, reserved=reserved), out, arrays

    def write(self, op: Op, vcpu: VCpu) -> Gva:
        """Write the struct and the arrays of `op` to the vCPU's argument page; the Gva of the struct."""
        data, arrays, _ = self.encode(op, vcpu, ARG_ARRAYS)
        page, hpa = self.page(vcpu)
        memory = self._machine.memory
        memory.write(hpa, data)
        for offset, array in arrays:
            memory.write(hpa + offset, array)
        return page


def _layouts(catalogue: Catalogue, version: int) -> dict[int, Layout]:
    """The struct of each call at this ABI version, by opcode; for a newer call, the first struct that it had."""
    return {
        kind.code: declaration.layouts[max(version, min(declaration.layouts))]
        for kind in catalogue.kinds
        if (declaration := kind.declaration) is not None
    }
