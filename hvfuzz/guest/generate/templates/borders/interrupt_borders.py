"""Templates of local APICs: logical destinations, the error interrupt, and priorities that tie."""

from __future__ import annotations

from typing import Final

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.argument_kinds import MSRS
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Actor, Op

_SOFTWARE_ENABLED: Final = 0x1FF
"""SVR with bit 8 set and spurious vector 0xff (SDM Vol. 3A, 11.9)."""
_LOGICAL: Final = 1 << 11
"""Destination mode of an interrupt command (SDM Vol. 3A, 11.12.9)."""
_LDR: Final = 0x80D
_LVT_ERROR: Final = 0x837
_IRR0: Final = 0x820
_FIRST_LEGAL: Final = 16
"""Vectors below it are illegal (SDM Vol. 3A, 11.5.2)."""
_MASKED: Final = 1 << 16
_NAMES: Final = (1, 2, 3, 3, 0xFFFF, 0xFFFC, 0, 0x1_0001, 0xFFFF_FFFF)
"""Logical destinations: a vCPU, both, all of the cluster, none of it, no bits, another cluster, everybody."""


def _enable(context: Context, write: OpKind, actor: Actor) -> None:
    """Append the write that lets the APIC of `actor` accept interrupts."""
    context.append(Op(write, actor, (MSRS["X2APIC_SVR"], _SOFTWARE_ENABLED)))


def _vcpus(context: Context, domain: int) -> list[Actor]:
    return [Actor(domain, vcpu) for vcpu in range(context.domains[domain].vcpus)]


def _read_requests(context: Context, actor: Actor, vector: int) -> None:
    """Append a read of the word of IRR that holds `vector`."""
    read = context.grammar.allowed("rdmsr")
    if read is not None:
        context.append(Op(read, actor, (_IRR0 + (vector >> 5), *(0,) * (len(read.fields) - 1))))


def logical_interrupts(context: Context) -> None:
    """Append interrupt commands with a logical destination, and reads of what arrived, in the domain and in another."""
    write, read = context.grammar.allowed("wrmsr"), context.grammar.allowed("rdmsr")
    if write is None:
        return
    sender = context.actor()
    others = [number for number in range(len(context.domains)) if number != sender.domain]
    bystander = context.actor(context.pick(others)) if others else sender
    for actor in (*_vcpus(context, sender.domain), bystander):
        if context.chance(0.9):
            _enable(context, write, actor)
    if read is not None and context.chance(0.2):
        context.append(Op(read, sender, (_LDR,)))
    for _ in range(1 + context.below(3)):
        vector = context.pick((0x31, 0x41, 0x1F, 0x20, 0xFF, 0x10, 0xF))
        command = context.pick(_NAMES) << 32 | _LOGICAL | vector
        context.append(Op(write, sender, (MSRS["X2APIC_ICR"], command)))
        for actor in (*_vcpus(context, sender.domain), bystander):
            if context.chance(0.6):
                _read_requests(context, actor, vector)


def error_interrupt(context: Context) -> None:
    """Append a vector for the error interrupt, mostly unmasked and legal, then illegal vectors, and reads of both."""
    write, read = context.grammar.allowed("wrmsr"), context.grammar.allowed("rdmsr")
    if write is None:
        return
    actor = context.actor()
    if context.chance(0.9):
        _enable(context, write, actor)
    others = [number for number in range(len(context.domains)) if number != actor.domain]
    if others and context.chance(0.5):
        _enable(context, write, context.actor(context.pick(others)))
    vector = context.pick((0x41, 0x41, _FIRST_LEGAL, _FIRST_LEGAL - 1, 0xFF, 0x41 | _MASKED))
    context.append(Op(write, actor, (_LVT_ERROR, vector)))
    for _ in range(1 + context.below(2)):
        illegal = context.pick((5, 0, _FIRST_LEGAL - 1))
        register = context.pick(("X2APIC_SELF_IPI", "X2APIC_ICR"))
        destination = context.below(3) << 32 if register == "X2APIC_ICR" else 0
        context.append(Op(write, actor, (MSRS[register], destination | illegal)))
    _read_requests(context, actor, vector & 0xFF)
    context.append(Op(write, actor, (MSRS["X2APIC_ESR"], 0)))
    if read is not None:
        context.append(Op(read, actor, (MSRS["X2APIC_ESR"],)))


def priority_tie(context: Context) -> None:
    """Append a HLT at a raised priority, then interrupts just below, in and just above that class from another vCPU."""
    write, halt, pause, sti = (context.grammar.allowed(name) for name in ("wrmsr", "hlt", "pause", "sti"))
    if write is None or halt is None:
        return
    pairs = [number for number, domain in enumerate(context.domains) if domain.vcpus > 1]
    if not pairs:
        return
    first, second, *_ = _vcpus(context, context.pick(pairs))
    level = (2 + context.below(13)) << 4
    _enable(context, write, first)
    context.append(Op(write, first, (MSRS["X2APIC_TPR"], level | context.pick((0, 0, 1, 0xF)))))
    if sti is not None:
        context.append(Op(sti, first, ()))
    context.append(Op(halt, first, ()))
    for vector in (level - 1, level, level + 0xF, level + 0x10):
        if context.chance(0.75):
            context.append(Op(write, second, (MSRS["X2APIC_ICR"], first.vcpu << 32 | vector)))
            if pause is not None:
                context.append(Op(pause, first, ()))


def interrupt_borders(context: Context) -> None:
    """Append one of these sequences."""
    context.pick((logical_interrupts, error_interrupt, priority_tie))(context)
