"""An x86-64 processor in Unicorn: one memory access at a time, translated by a real walk of real page tables.

Unicorn runs an instruction that makes the access, from a page that every case maps at STUB_SLOT. A fetch starts at the
address itself; it ends where the processor would decode the first byte, for RAM is not executable to Unicorn
(which is a matter of its memory map, not of paging), so what lies there is never run.
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
"""First address that the processor does not have: MAXPHYADDR is 40."""
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
    """One instance of Unicorn, with RAM and nothing but all-ones beyond it; for one comparison."""

    def __init__(self, initial: bytes) -> None:
        """`initial` is RAM between cases. Raises ReferenceError if Unicorn is not installed, or not as expected."""
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
        """Physical address of each access but those of the walk."""
        self._beyond: list[int] = []
        """Physical address of each access outside RAM, those of the walk too."""
        self._uc: Any = api.Uc(api.UC_ARCH_X86, api.UC_MODE_64, self._x86.UC_CPU_X86_ICELAKE_SERVER)
        self._map(api)
        self._contexts: dict[tuple[int, int, int, int, bool], Any] = {}
        """Saved state of the processor by (cr0, cr4, efer, rflags, user)."""
        self._modes = self._enter_modes()
        self._scratch = self._uc.context_save()
        self._error_code = self._find_error_code()

    def load(self, entries: Iterable[tuple[int, int]]) -> None:
        """RAM in its initial state, but for these (physical address, word)."""
        self._ram[:] = self._initial
        for hpa, word in entries:
            _WORD.pack_into(self._ram, hpa, word)

    def memory(self) -> bytes:
        """All of RAM."""
        return self._ram[:]

    def access(self, case: Case, access: Access) -> Outcome:
        """What this access of the case does, from an empty TLB; all addresses in bytes.

        Raises ReferenceError if Unicorn stops for a reason of its own.
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
            raise ReferenceError(f"Unicorn neither made the access nor refused it: {access}")
        hpa = self._accessed[0]
        beyond = {address // PAGE_SIZE for address in (*self._beyond, hpa) if address >= RAM_SIZE}
        return Outcome(NO_EXCEPTION, 0, cr2, rax, hpa, tuple(sorted(beyond)))

    def _run(self, context: Any, cr3: int, access: Access) -> None:
        """Make the access; what it did is then in the processor and in the three lists."""
        self._vectors.clear()
        self._accessed.clear()
        self._beyond.clear()
        uc = self._uc
        x86 = self._x86
        uc.context_restore(context)
        uc.reg_write(x86.UC_X86_REG_CR3, cr3)  # Empties the TLB, too.
        if access.kind != EXEC:
            uc.reg_write(x86.UC_X86_REG_RDI, access.gva)
        uc.reg_write(x86.UC_X86_REG_RAX, access.value)
        try:
            uc.emu_start(start_address(access), 0, count=1)
        except self._failure as failure:
            if access.kind != EXEC or failure.errno not in self._expected:
                raise ReferenceError(f"Unicorn stops ({failure}) at a {access}") from None

    def _map(self, api: Any) -> None:
        """Lay out physical memory, and ask to be told of every access and exception."""
        uc = self._uc
        # No address to stop at, which 0 would be otherwise: Unicorn would walk the tables for it, too.
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
        return U64  # Where no memory answers, the bus floats high.

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

        User mode is entered by SYSRET, once, while SMEP is clear: what Unicorn looks up right after SYSRET, it looks
        up as the supervisor still, and a page fault there, which nobody is told of, makes the next one a double fault.
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
            raise ReferenceError("Unicorn does not enter user mode")
        return {False: supervisor, True: uc.context_save()}

    def _context(self, cr0: int, cr4: int, efer: int, rflags: int, user: bool) -> Any:
        """The saved state of a mode with these control registers."""
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
        """The 32-bit word at `offset` of the saved state of the processor as it is now."""
        self._uc.context_update(self._scratch)
        return int(ctypes.c_uint32.from_address(self._scratch.context.value + offset).value)

    def _find_error_code(self) -> int:
        """Where in a saved state the error code is: no register shows it, so look where those of known faults are."""
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
                raise ReferenceError(f"Unicorn has {self._vectors} where there is a page fault")
            offsets = {offset for offset in offsets if self._saved_word(offset) == code}
        if len(offsets) != 1:
            raise ReferenceError(f"{self.version} has its error code at one of {len(offsets)} places")
        return offsets.pop()
