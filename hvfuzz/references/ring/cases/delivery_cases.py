"""Systematic cases of the delivery of exceptions and of INT: gates, targets, stacks, IDT, TSS, and nested events."""

from collections.abc import Iterator
from enum import Enum
from itertools import product
from typing import Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.segments import KERNEL_CS, USER_CS
from hvfuzz.machine.mmu import paging
from hvfuzz.references.ring.case import Case, Kind
from hvfuzz.references.ring.cases.case_builder import CaseBuilder
from hvfuzz.references.ring.cases.operands import (
    EPT_RIGHTS,
    FAULT_PAGES,
    GATE_KINDS,
    LIMITS,
    RFLAGS_BITS,
    RIPS,
    SELECTORS,
    STACKS,
)
from hvfuzz.references.ring.memory_map import HOLE, IST1, RSP0, Page, encode_gate, gva_of, handler_of, hpa_of

NOT_CANONICAL: Final = 1 << 47 | 0x1000
INT_VECTOR: Final = 0x80


class Trigger(Enum):
    """What causes the delivery, with its vector."""

    INT = INT_VECTOR
    UD = Vector.UD
    GP = Vector.GP
    PF = Vector.PF
    INJECT = Vector.TS


class Path(Enum):
    """How the delivery finds its stack."""

    SAME = 0
    """The gate's ring is the present one."""
    RSP0 = 1
    IST = 2
    USER = 3
    """Ring 3 to ring 3."""
    USER_IST = 4


def triggered(trigger: Trigger, user: bool = False) -> CaseBuilder:
    """A builder of a case in which the trigger's vector is delivered."""
    if trigger is Trigger.INT:
        builder = CaseBuilder(Kind.INT, user)
        builder["argument"] = INT_VECTOR
    elif trigger is Trigger.UD:
        builder = CaseBuilder(Kind.MOV_CR, user)
        builder["argument"] = 0xC0 | 5 << 3
    elif trigger is Trigger.INJECT:
        builder = CaseBuilder(Kind.INJECT, user)
        builder["argument"], builder["error"] = trigger.value, 0x1238
    else:
        builder = CaseBuilder(Kind.LOAD, user)
        builder["rdi"] = NOT_CANONICAL if trigger is Trigger.GP else gva_of(HOLE) + 0x123
    return builder


def on_path(path: Path, trigger: Trigger, stack: int | None = None) -> CaseBuilder:
    """A builder of a case whose delivery pushes its frame at `stack` (None: the usual one), which `path` leads to."""
    builder = triggered(trigger, path in (Path.RSP0, Path.USER, Path.USER_IST))
    selector = USER_CS if path in (Path.USER, Path.USER_IST) else KERNEL_CS
    kind = 0xEE
    builder.gate(trigger.value, selector=selector, kind=kind, ist=1 if path in (Path.IST, Path.USER_IST) else 0)
    if stack is not None:
        if path in (Path.SAME, Path.USER):
            builder["rsp"] = stack
        else:
            offset = RSP0 if path is Path.RSP0 else IST1
            builder.write(hpa_of(Page.TSS) + offset, stack.to_bytes(8, "little"))
    return builder


def delivery_cases() -> Iterator[Case]:
    """All of them, in a fixed order."""
    yield from _gates()
    yield from _targets()
    yield from _stacks()
    yield from _stack_pages()
    yield from _idt()
    yield from _tss()
    yield from _flags()
    yield from _events()


def _gates() -> Iterator[Case]:
    """Every type, DPL and P of a gate, and every selector, for each trigger and ring."""
    for trigger, user in product((Trigger.INT, Trigger.GP), (False, True)):
        for kind in GATE_KINDS:
            builder = triggered(trigger, user)
            builder.gate(trigger.value, kind=kind)
            yield builder.finish(f"gate of kind {kind:#x}")
    for trigger, user, selector, ist in product(Trigger, (False, True), SELECTORS, (0, 1)):
        builder = triggered(trigger, user)
        builder.gate(trigger.value, selector=selector, kind=0xEE, ist=ist)
        yield builder.finish(f"gate with selector {selector:#x}")


def _targets() -> Iterator[Case]:
    """Handlers on both sides of every border, with stacks that work and that do not."""
    for target, path, trigger in product(RIPS, Path, (Trigger.INT, Trigger.GP)):
        builder = on_path(path, trigger)
        selector = USER_CS if path in (Path.USER, Path.USER_IST) else KERNEL_CS
        builder.gate(
            trigger.value, target=target, selector=selector, kind=0xEE, ist=int(path in (Path.IST, Path.USER_IST))
        )
        yield builder.finish(f"handler at {target:#x} by {path.name}")
        for broken in range(3):
            if broken == 0:
                builder["tss_limit"] = 3
            elif broken == 1:
                builder.write(hpa_of(Page.TSS) + RSP0, NOT_CANONICAL.to_bytes(8, "little"))
                builder.write(hpa_of(Page.TSS) + IST1, NOT_CANONICAL.to_bytes(8, "little"))
                builder["tss_limit"] = 0x67
            else:
                builder["rsp"] = NOT_CANONICAL
            yield builder.finish(f"handler at {target:#x} by {path.name}, stack broken")


def _stacks() -> Iterator[Case]:
    """Frames at every stack pointer, on every path, with and without an error code."""
    for stack, path, trigger in product(STACKS, Path, Trigger):
        yield on_path(path, trigger, stack).finish(f"stack {stack:#x} by {path.name}")
    for path, trigger, smap, ac, wp in product(
        Path, (Trigger.INT, Trigger.GP), (False, True), (False, True), (False, True)
    ):
        for page in (Page.USER_STACK, Page.KERNEL_CODE):
            builder = on_path(path, trigger, gva_of(page) + 0x800)
            builder["cr4"] |= paging.CR4_SMAP if smap else 0
            builder["rflags"] |= paging.RFLAGS_AC if ac else 0
            builder["cr0"] ^= 0 if wp else paging.CR0_WP
            builder.flip_pte(page, paging.RW if page is Page.KERNEL_CODE else 0)
            yield builder.finish(f"stack in {page.name} by {path.name}, SMAP {smap}, AC {ac}, WP {wp}")


def _stack_pages() -> Iterator[Case]:
    """Frames that cross a page, of which the guest's tables or EPT refuse one or both."""
    pages = {
        Path.SAME: (Page.LOW, Page.LOW_END),
        Path.RSP0: (Page.RSP0, Page.RSP0_END),
        Path.IST: (Page.IST, Page.IST_END),
        Path.USER: (Page.USER_STACK, Page.USER_STACK_END),
    }
    for (path, both), trigger, offset in product(pages.items(), Trigger, range(0, 0x40, 8)):
        first, second = both
        for what in range(6):
            builder = on_path(path, trigger, gva_of(second) + offset)
            if what in (0, 2):
                builder.flip_pte(first, paging.P)
            if what in (1, 2):
                builder.flip_pte(second, paging.RW)
            if what in (3, 5):
                builder.set_ept_rights(first, 1)
            if what in (4, 5):
                builder.set_ept_rights(second, 0)
            if what == 0 and offset & 8:
                builder.set_ept_rights(second, 5)
            yield builder.finish(f"frame across {first.name} and {second.name}, offset {offset:#x}")
    for (path, both), trigger, bit in product(pages.items(), (Trigger.INT, Trigger.PF), FAULT_PAGES):
        builder = on_path(path, trigger, gva_of(both[1]) + 0x800)
        builder.flip_pte(both[1], bit)
        yield builder.finish(f"bit {bit:#x} of the entry of {both[1].name}")
    for (path, both), trigger, rights in product(pages.items(), Trigger, EPT_RIGHTS):
        builder = on_path(path, trigger, gva_of(both[1]) + 0x800)
        builder.set_ept_rights(both[1], rights)
        yield builder.finish(f"EPT rights {rights} of {both[1].name}")


def _idt() -> Iterator[Case]:
    """Limits of the IDT, an IDT that crosses pages or borders, and pages of the IDT that cannot be read."""
    for trigger, user, limit in product(Trigger, (False, True), LIMITS):
        builder = triggered(trigger, user)
        builder["idt_limit"] = limit
        yield builder.finish(f"IDT limit {limit:#x}")
    for trigger, user, ends in product(Trigger, (False, True), (-1, 0, 1)):
        for vector in (trigger.value, Vector.GP, Vector.DF, Vector.PF):
            builder = triggered(trigger, user)
            builder["idt_limit"] = 16 * vector + 15 + ends
            yield builder.finish(f"IDT limit near vector {vector}")
    moved = (Page.IDT_END.value, Page.DATA.value, HOLE, Page.TOP.value)
    for trigger, user, index, offset in product(Trigger, (False, True), moved, (0, 8, 0xFF8, 0x7FF)):
        builder = triggered(trigger, user)
        builder["idt"] = gva_of(index) + offset - 16 * trigger.value & U64
        if builder["idt"] >> 47 not in (0, 0x1FFFF):
            builder["idt"] = gva_of(index, 511) + offset - 16 * trigger.value & U64
        first, second = encode_gate(handler_of(trigger.value), KERNEL_CS, 0xEE)
        builder.write_at(gva_of(index) + offset, first.to_bytes(8, "little") + second.to_bytes(8, "little"))
        yield builder.finish(f"gate at page {index}, offset {offset:#x}")
    for trigger, user, what in product(Trigger, (False, True), (*FAULT_PAGES, paging.A)):
        builder = triggered(trigger, user)
        builder.flip_pte(Page.IDT, what)
        yield builder.finish(f"bit {what:#x} of the entry of the IDT")
    for trigger, user, rights in product(Trigger, (False, True), EPT_RIGHTS):
        builder = triggered(trigger, user)
        builder.set_ept_rights(Page.IDT, rights)
        yield builder.finish(f"EPT rights {rights} of the IDT")


def _tss() -> Iterator[Case]:
    """Limits of the TSS for each of its stacks, a TSS that crosses pages, and pages of it that cannot be read."""
    for trigger, user, ist, delta in product((Trigger.INT, Trigger.GP), (False, True), range(8), range(-1, 2)):
        builder = triggered(trigger, user)
        builder.gate(trigger.value, kind=0xEE, ist=ist)
        builder["tss_limit"] = (IST1 + 8 * ist - 1 if ist else RSP0 + 7) + delta
        yield builder.finish(f"TSS limit near stack {ist}")
    for trigger, user, ist, start in product(
        (Trigger.INT, Trigger.GP), (False, True), (0, 1), (0xFD8, 0xFF8, 0xFFA, 0xFFC)
    ):
        for what in range(4):
            builder = triggered(trigger, user)
            builder.gate(trigger.value, kind=0xEE, ist=ist)
            builder["tss"] = gva_of(Page.TSS) + start
            builder.write(hpa_of(Page.TSS) + start, b"\0" * 4 + (gva_of(Page.RSP0_END) + 0x400).to_bytes(8, "little"))
            builder.write(hpa_of(Page.TSS) + start + IST1, (gva_of(Page.IST_END) + 0x400).to_bytes(8, "little"))
            if what == 1:
                builder.flip_pte(Page.TSS_1, paging.P)
            elif what == 2:
                builder.set_ept_rights(Page.TSS_1, 0)
            elif what == 3:
                builder.flip_pte(Page.TSS, paging.P)
            yield builder.finish(f"TSS at offset {start:#x}")
    for trigger, user, ist, rights in product((Trigger.INT, Trigger.PF), (False, True), (0, 1), EPT_RIGHTS):
        builder = triggered(trigger, user)
        builder.gate(trigger.value, kind=0xEE, ist=ist)
        builder.set_ept_rights(Page.TSS, rights)
        yield builder.finish(f"EPT rights {rights} of the TSS")


def _flags() -> Iterator[Case]:
    """Every flag before the delivery, by interrupt and trap gates; and SS null."""
    for trigger, path, bit, trap in product(Trigger, Path, RFLAGS_BITS, (0, 1)):
        builder = on_path(path, trigger)
        selector = USER_CS if path in (Path.USER, Path.USER_IST) else KERNEL_CS
        builder.gate(trigger.value, selector=selector, kind=0xEE | trap, ist=int(path in (Path.IST, Path.USER_IST)))
        builder["rflags"] |= bit
        yield builder.finish(f"flag {bit:#x}")
    for trigger, path in product(Trigger, (Path.SAME, Path.IST)):
        builder = on_path(path, trigger)
        builder["null_ss"] = True
        yield builder.finish("SS null")


def _events() -> Iterator[Case]:
    """Events that replace each other: each vector, with a second and a third exception during its delivery."""
    vectors = (0, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19)
    for vector, user, second, third in product(vectors, (False, True), range(5), range(3)):
        builder = CaseBuilder(Kind.INJECT, user)
        builder["argument"], builder["error"] = vector, 0 if vector in (8, 17) else 0x18
        if second == 1:
            builder.gate(vector, kind=0x0E)
        elif second == 2:
            builder.gate(vector, ist=1)
            builder.write(hpa_of(Page.TSS) + IST1, gva_of(HOLE).to_bytes(8, "little"))
        elif second == 3:
            builder.gate(vector, ist=1)
            builder.write(hpa_of(Page.TSS) + IST1, NOT_CANONICAL.to_bytes(8, "little"))
        elif second == 4:
            builder.gate(vector, ist=1)
            builder.set_ept_rights(Page.IST_END, 5)
        for place in (Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.DF):
            if place != vector and (third == 1 or (third == 2 and place != Vector.DF)):
                builder.gate(place, selector=0x18)
        yield builder.finish(f"vector {vector}, second {second}, third {third}")
