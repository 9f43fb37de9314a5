"""The clean hypervisor has no findings when what it copies from and to are page tables, and nothing stays cached.

A walk sets flags in the bytes that a copy has just read or written, a copy changes the tables of the next walk, and
another vCPU stores to them meanwhile. An oracle that looks at such bytes later than they arose sees other ones.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hvfuzz.abi.boot import COALESCED, COALESCED_GFN, DIRECT_MAP, PT_USER_GFN, UART_PORT, USER_BASE, WORLDS
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import compose
from hvfuzz.guest.generate.races import with_race
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.program.ops import OpKind, catalogue
from hvfuzz.guest.program.program import Actor, Op, Program, is_array
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.addresses import PAGE_SHIFT

CATALOGUE = catalogue(ABI)
TABLES = range(1, PT_USER_GFN + 1)
"""Frames of the boot page tables of each domain."""
COPYING = tuple(
    CATALOGUE.by_name[name]
    for name in (
        *(
            "ins",
            "ins",
            "ins",
            "outs",
            "vmcall",
            "multicall",
            "memory.exchange",
            "console.write",
            "sched.poll",
            "grant.copy",
        ),
        *("device.dma_batch", "device.dma_submit", "mmio_write", "int", "iret", "load", "store"),
    )
)
PORTS = (UART_PORT, UART_PORT + 2, UART_PORT + 2, UART_PORT + 5, 0x80)
"""The interrupt identification register, 1 at first, makes a present entry."""
RING = DIRECT_MAP + (COALESCED_GFN << PAGE_SHIFT)


def in_tables(rng: Random) -> int:
    """An address in a page table: mostly of an entry that leads to the direct map, sometimes across two tables."""
    if rng.random() < 0.6:
        at = rng.choice((0x1880, 0x2000, 0x2000, 0x3000, *(0x4000 + 8 * table for table in TABLES)))
    else:
        at = (rng.choice(TABLES) << PAGE_SHIFT) + rng.choice((0, 8, 0xFF8, 0xFFC, 8 * rng.randrange(512)))
    return DIRECT_MAP + at + rng.choice((0, 0, 0, 0, 0, -4, -16, 1, 4, 6))


def aimed(op: Op, rng: Random) -> Op:
    """`op` with most of its addresses and frames in page tables."""
    values = list(op.values)
    for at, field in enumerate(op.kind.fields):
        name = field.kind.name
        if rng.random() < 0.3:
            continue
        if name in ("gva", "entries", "ring", "bytes") or is_array(field.kind):
            values[at] = in_tables(rng) if rng.random() < 0.9 else USER_BASE + rng.randrange(0x3000)
        elif name in ("gfn", "frame_or_ref") and isinstance(values[at], int):
            values[at] = rng.choice(TABLES)
        elif name == "io_port":
            values[at] = rng.choice(PORTS)
        elif name == "times":
            values[at] = rng.randrange(1, 8)
        elif name in ("count", "length"):
            values[at] = rng.randrange(1, 5)
    if op.kind.name == "mmio_write" and rng.random() < 0.8:
        values[0] = COALESCED
    return op._replace(values=tuple(values))


def edit(rng: Random, actor: Actor) -> Op:
    """An edit of a table by a guest: flags are cleared, a page leads to a table, or the ring of writes is one."""
    pte = CATALOGUE.by_name["pte"]
    gva = rng.choice((RING, in_tables(rng), USER_BASE + (rng.randrange(4) << PAGE_SHIFT)))
    frame = rng.choice((*TABLES, COALESCED_GFN, 0x20 + rng.randrange(16)))
    return Op(pte, actor, (gva, 1, frame << PAGE_SHIFT | rng.choice((0x3, 0x7, 0x1, 0x23, 0x63, 0x5))))


def programs(rng: Random, world: int, number: int) -> list[Program]:
    """`number` programs over this world."""
    grammar = grammar_for(CATALOGUE, None)
    tlb: OpKind = CATALOGUE.by_name["tlb"]
    made = []
    for _ in range(number):
        context = Context(grammar, rng, world, [])
        context.append(Op(tlb, context.actor(0), (rng.choice((0, 0, 1, 2, 4)),)))
        for _ in range(14):
            op = compose(context, rng.choice(COPYING))
            if rng.random() < 0.35:
                context.append(edit(rng, op.actor))
            if rng.random() < 0.75:
                op = aimed(op, rng)
            if rng.random() < 0.3:
                op = with_race(context, op)
                if op.race is not None and rng.random() < 0.6:
                    racer = op.race.op.actor
                    other = edit(rng, racer)
                    if rng.random() < 0.5:
                        value = rng.choice((0, rng.randrange(64) << PAGE_SHIFT | 0x63, rng.getrandbits(32)))
                        other = Op(CATALOGUE.by_name["store"], racer, (in_tables(rng) & ~7, 8, value))
                    op = op._replace(race=op.race._replace(op=other))
            context.append(op)
        made.append(Program(world, tuple(context.ops)))
    return made


@pytest.mark.parametrize("world", range(len(WORLDS)), ids=[world.name for world in WORLDS])
def test_page_tables_under_each_copy_of_the_host(rigs: Any, world: int) -> None:
    rig = rigs(world)
    for program in programs(Random(world), world, 60):
        rig.restore()
        rig.perform(program)
        rig.suite.audit()
        assert rig.suite.findings == []
