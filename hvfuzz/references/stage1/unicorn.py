"""An x86-64 processor in Unicorn that makes one memory access at a time, through Unicorn's own page walk.

Unicorn runs an instruction of the stub that makes the access. A fetch starts at its target address. It ends when the
processor reads the first byte, because RAM is not executable in Unicorn's memory map (which is independent of paging).
So whatever lies at the target is never run.
"""

import ctypes
import importlib
import mmap
from collections.abc import Iterable
from struct import Struct
from typing import Any, Final

from hvfuzz.machine.addresses import EXEC, PAGE_SIZE, READ, U64, WRITE
from hvfuzz.references.reference import ReferenceError
from hvfuzz.references.stage1.case import (
    CR2_BEFORE,
    NO_ADDRESS,
    NO_EXCEPTION,
    RAM_SIZE,
    STUB,
    STUB_ENTRY,
    STUB_SLOT,
    Access,
    Case,
    Outcome,
)
from hvfuzz.references.stage1.stub_code import STUB_SIZE, SYSRET_CODE, USER_CODE, start_address, stub_pages

INSTALLATION: Final = "pip install unicorn==2.1.4"
_BEYOND: Final = 1 << 40
"""First address beyond the processor's physical address space: MAXPHYADDR is 40."""
_WORD: Final = Struct("<Q")
_EFER: Final = 0xC000_0080
_STAR: Final = 0xC000_0081
_SELECTORS: Final = 0x13 << 48 | 8 << 32
_CR0: Final = 0x8001_0033
_CR4: Final = 0x20
_EFER_VALUE: Final = 0xD01
_RFLAGS: Final = 2
_PAGE_FAULT: Final = 14


class Unicorn:
    """An instance of Unicorn with RAM; reads beyond RAM give all ones."""

    def __init__(self, initial: bytes) -> None:
        """`initial` is RAM between cases. Raises ReferenceError if Unicorn is not installed, or is unsuitable."""
        try:
            api: Any = importlib.import_module("unicorn")
            self._x86: Any = importlib.import_module("unicorn.x86_const")
        except ImportError as missing:
            raise ReferenceError(f"unicorn is not installed: {INSTALLATION}") from missing
        self.version: str = f"Unicorn {api.__version__}"
        self._failure: Any = api.UcError
        self._expected: tuple[int, ...] = (api.UC_ERR_FETCH_PROT, api.UC_ERR_FETCH_UNMAPPED)
        self._initial = initial
        self._ram = mmap.mmap(-1, RAM_SIZE)
        self._vectors: list[int] = []
        self._accessed: list[int] = []
        """Physical address of each access, without those of page walks."""
        self._beyond: list[int] = []
        """Physical address of each access outside RAM, with those of page walks."""
        self._uc: Any = api.Uc(api.UC_ARCH_X86, api.UC_MODE_64, self._x86.UC_CPU_X86_ICELAKE_SERVER)
        self._map(api)
        self._contexts: dict[tuple[int, int, int, int, bool], Any] = {}
        """Saved state of the processor by (cr0, cr4, efer, rflags, user)."""
        self._modes = self._enter_modes()
        self._scratch = self._uc.context_save()
        self._error_code = self._find_error_code()

    def load(self, entries: Iterable[tuple[int, int]]) -> None:
        """Restore RAM to its initial contents, then write these (physical address, word) pairs."""
        self._ram[:] = self._initial
        for hpa, word in entries:
            _WORD.pack_into(self._ram, hpa, word)

    def memory(self) -> bytes:
        """All of RAM."""
        return self._ram[:]

    def access(self, case: Case, access: Access) -> Outcome:
        """The outcome of an access of the case, with an empty TLB.

        Raises ReferenceError if Unicorn stops for any other reason than the access.
        """
        key = (case.cr0, case.cr4, case.efer, access.rflags, access.user)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._context(*key)
        self._run(context, case.cr3, access)
        read = self._uc.reg_read
        cr2 = read(self._x86.UC_X86_REG_CR2)
        rax = read(self._x86.UC_X86_REG_RAX)
        if self._vectors:
            return Outcome(self._vectors[0], self._saved_word(self._error_code), cr2, rax, NO_ADDRESS, ())
        if not self._accessed:
            raise ReferenceError(f"Unicorn neither performed the access nor raised an exception: {access}")
        hpa = self._accessed[0]
        beyond = {address // PAGE_SIZE for address in (*self._beyond, hpa) if address >= RAM_SIZE}
        return Outcome(NO_EXCEPTION, 0, cr2, rax, hpa, tuple(sorted(beyond)))

    def _run(self, context: Any, cr3: int, access: Access) -> None:
        """Make the access; its effects are then in the processor's registers and in the three lists."""
        self._vectors.clear()
        self._accessed.clear()
        self._beyond.clear()
        uc = self._uc
        x86 = self._x86
        uc.context_restore(context)
        uc.reg_write(x86.UC_X86_REG_CR3, cr3)  # This also empties the TLB.
        if access.kind != EXEC:
            uc.reg_write(x86.UC_X86_REG_RDI, access.gva)
        uc.reg_write(x86.UC_X86_REG_RAX, access.value)
        try:
            uc.emu_start(start_address(access), 0, count=1)
        except self._failure as failure:
            if access.kind != EXEC or failure.errno not in self._expected:
                raise ReferenceError(f"Unicorn stopped ({failure}) at this access: {access}") from None

    def _map(self, api: Any) -> None:
        """Map physical memory, and install hooks for every access and exception."""
        uc = self._uc
        # With no exit address enabled, Unicorn does not walk the tables for the `until` address 0 of emu_start.
        uc.ctl_exits_enabled(True)
        self._stub = mmap.mmap(-1, STUB_SIZE)
        self._stub[:] = stub_pages()
        self._map_memory(0, self._ram, api.UC_PROT_READ | api.UC_PROT_WRITE)
        self._map_memory(STUB, self._stub, api.UC_PROT_ALL)
        for start, end in ((RAM_SIZE, STUB), (STUB + STUB_SIZE, _BEYOND)):
            uc.mmio_map(start, end - start, self._read_beyond, start, self._write_beyond, start)
        uc.hook_add(api.UC_HOOK_INTR, self._on_exception)
        uc.hook_add(api.UC_HOOK_MEM_READ | api.UC_HOOK_MEM_WRITE, self._on_access)
        uc.hook_add(api.UC_HOOK_MEM_FETCH_UNMAPPED | api.UC_HOOK_MEM_FETCH_PROT, self._on_fetch)

    def _map_memory(self, hpa: int, memory: mmap.mmap, rights: int) -> None:
        self._uc.mem_map_ptr(hpa, len(memory), rights, ctypes.addressof(ctypes.c_char.from_buffer(memory)))

    def _read_beyond(self, _uc: Any, offset: int, _size: int, start: int) -> int:
        self._beyond.append(start + offset)
        return U64  # Reads without memory give all ones.

    def _write_beyond(self, _uc: Any, offset: int, _size: int, _value: int, start: int) -> None:
        self._beyond.append(start + offset)

    def _on_exception(self, uc: Any, vector: int, _data: object) -> None:
        self._vectors.append(vector)
        uc.emu_stop()

    def _on_access(self, _uc: Any, _kind: int, hpa: int, _size: int, _value: int, _data: object) -> None:
        self._accessed.append(hpa)

    def _on_fetch(self, _uc: Any, _kind: int, hpa: int, _size: int, _value: int, _data: object) -> bool:
        self._accessed.append(hpa)
        return False

    def _enter_modes(self) -> dict[bool, Any]:
        """Saved states of 64-bit supervisor and user mode.

        User mode is entered by SYSRET once, with SMEP clear. Unicorn makes the lookup right after SYSRET still as the
        supervisor; a page fault there is not reported to hooks, and would turn the next fault into a double fault.
        """
        uc = self._uc
        x86 = self._x86
        root = RAM_SIZE - PAGE_SIZE
        self.load(((root + 8 * STUB_SLOT, STUB_ENTRY),))
        uc.reg_write(x86.UC_X86_REG_CR3, root)
        uc.msr_write(_EFER, _EFER_VALUE)
        uc.msr_write(_STAR, _SELECTORS)
        uc.reg_write(x86.UC_X86_REG_CR4, _CR4)
        uc.reg_write(x86.UC_X86_REG_CR0, _CR0)
        uc.reg_write(x86.UC_X86_REG_RFLAGS, _RFLAGS)
        supervisor = uc.context_save()
        uc.reg_write(x86.UC_X86_REG_RCX, USER_CODE)
        uc.reg_write(x86.UC_X86_REG_R11, _RFLAGS)
        uc.emu_start(SYSRET_CODE, 0, count=1)
        if self._vectors or uc.reg_read(x86.UC_X86_REG_CS) & 3 != 3:
            raise ReferenceError("Unicorn does not enter user mode after SYSRET")
        return {False: supervisor, True: uc.context_save()}

    def _context(self, cr0: int, cr4: int, efer: int, rflags: int, user: bool) -> Any:
        """The saved state of supervisor or user mode with these control registers."""
        uc = self._uc
        x86 = self._x86
        uc.context_restore(self._modes[user])
        uc.msr_write(_EFER, efer)
        uc.reg_write(x86.UC_X86_REG_CR0, cr0)
        uc.reg_write(x86.UC_X86_REG_CR4, cr4)
        uc.reg_write(x86.UC_X86_REG_RFLAGS, rflags)
        uc.reg_write(x86.UC_X86_REG_CR2, CR2_BEFORE)
        return uc.context_save()

    def _saved_word(self, offset: int) -> int:
        """The 32-bit word at `offset` in the processor's state, as Unicorn saves it."""
        self._uc.context_update(self._scratch)
        return int(ctypes.c_uint32.from_address(self._scratch.context.value + offset).value)

    def _find_error_code(self) -> int:
        """Offset of the error code in a saved state, found by faults with known codes, since no register shows it."""
        root = RAM_SIZE - PAGE_SIZE
        offsets: set[int] = set(range(0, self._scratch.size - 3, 4))
        for kind, user, code in (
            (READ, False, 0),
            (WRITE, False, 2),
            (READ, True, 4),
            (WRITE, True, 6),
            (EXEC, False, 0x10),
            (EXEC, True, 0x14),
        ):
            context = self._context(_CR0, _CR4, _EFER_VALUE, _RFLAGS, user)
            self._run(context, root, Access(kind, user, _RFLAGS, PAGE_SIZE, 1, 0))
            if self._vectors != [_PAGE_FAULT]:
                raise ReferenceError(f"Unicorn raises exceptions {self._vectors} instead of a page fault")
            offsets = {offset for offset in offsets if self._saved_word(offset) == code}
        if len(offsets) != 1:
            raise ReferenceError(f"{self.version}: found {len(offsets)} offsets of the error code instead of one")
        return offsets.pop()
