"""Templates of waits: a wake of a vCPU that runs while another waits, and a deadline that is met to the cycle."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hvfuzz.abi.boot import DIRECT_MAP
from hvfuzz.abi.limits import CLOCK_READS, CLOCK_TICK, CLOCK_WINDOW
from hvfuzz.guest.generate.address_choice import RAM_GFN
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import with_fields
from hvfuzz.guest.program.argument_kinds import MSRS
from hvfuzz.guest.program.program import Actor, Op, Ref
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.clock import Cost

_EXIT: Final = Cost.VMEXIT + Cost.VMENTRY
"""Cycles of an instruction that exits and does nothing else, such as CPUID."""
_FILLERS: Final = (
    ("load", Cost.TLB_HIT),
    ("sti", Cost.PRIVILEGED),
    ("pause", Cost.INSTRUCTION + Cost.PAUSE),
)
"""Instructions that do not exit, and their cycles once their pages are in the TLB."""
_SOFTWARE_ENABLED: Final = 0x1FF


def wake_of_the_awake(context: Context) -> None:
    """Append a wait of one vCPU, or of none, and wakes for the domain: kicks, events and interrupts.

    Most are meant for the other vCPU, which runs. Then each vCPU performs an instruction, and mostly waits.
    """
    grammar = context.grammar
    pairs = [number for number, domain in enumerate(context.domains) if domain.vcpus > 1]
    waits = [kind for name in ("sched.block", "hlt") if (kind := grammar.allowed(name)) is not None]
    if not waits or not pairs:
        return
    domain = context.pick(pairs)
    remote = (domain + 1 + context.below(len(context.domains) - 1)) % len(context.domains)
    awake, waiting = (Actor(domain, vcpu) for vcpu in context.pick(((0, 1), (0, 1), (1, 0))))
    alloc, bind, send, kick, write, pause = (
        grammar.allowed(name) for name in ("event.alloc", "event.bind", "event.send", "sched.kick", "wrmsr", "pause")
    )
    sender: Op | None = None
    if alloc is not None and bind is not None and send is not None and context.chance(0.6):
        port = len(context.ops)
        context.append(with_fields(alloc, awake, remote=remote))
        context.append(with_fields(bind, Actor(remote, 0), remote=domain, port=Ref(port)))
        sender = with_fields(send, Actor(remote, 0), port=Ref(port + 1))
    if context.chance(0.7):
        context.append(Op(context.pick(waits), waiting, ()))
    for _ in range(1 + context.below(3)):
        choice = context.rng.random()
        if sender is not None and choice < 0.5:
            context.append(sender)
        elif kick is not None and choice < 0.8:
            target = awake if context.chance(0.8) else waiting
            context.append(with_fields(kick, awake, vcpu=target.vcpu))
        elif write is not None:
            context.append(Op(write, awake, (MSRS["X2APIC_SVR"], _SOFTWARE_ENABLED)))
            context.append(Op(write, awake, (MSRS["X2APIC_ICR"], awake.vcpu << 32 | 0x41)))
    for actor in (waiting, awake):
        if pause is not None:
            context.append(Op(pause, actor, ()))
        if context.chance(0.6):
            context.append(Op(context.pick(waits), actor, ()))


@lru_cache(64)
def filling(cycles: int, costs: tuple[int, ...]) -> tuple[int, ...] | None:
    """The costs, each from `costs`, of the fewest instructions that take exactly `cycles`; None if none do."""
    best: list[tuple[int, ...] | None] = [()]
    for total in range(1, cycles + 1):
        ways = [(*way, cost) for cost in costs if cost <= total and (way := best[total - cost]) is not None]
        best.append(min(ways, key=len, default=None))
    return best[cycles]


def deadline_met_exactly(context: Context) -> None:
    """Append a poll, and instructions of another domain of which one exits at the poll's deadline, to the cycle.

    A read of the time stamp beyond the quota lasts until the next window begins, so two groups of reads leave only one
    tick to fill with instructions whose cycles are known. Sometimes an instruction more or less is in it.
    """
    grammar = context.grammar
    pairs = [number for number, domain in enumerate(context.domains) if domain.vcpus > 1]
    alloc, poll, read, leave, load = (
        grammar.allowed(name) for name in ("event.alloc", "sched.poll", "rdtsc", "cpuid", "load")
    )
    kinds = {cost: kind for name, cost in _FILLERS if (kind := grammar.allowed(name)) is not None}
    before, rest = divmod(CLOCK_TICK - _EXIT, _EXIT)
    fill = filling(rest, tuple(kinds))
    if not pairs or alloc is None or poll is None or read is None or leave is None or load is None or fill is None:
        return
    poller = Actor(context.pick(pairs), 1)
    domain = (poller.domain + 1 + context.below(len(context.domains) - 1)) % len(context.domains)
    actor = Actor(domain, 0)
    word = DIRECT_MAP + (RAM_GFN << PAGE_SHIFT)
    port = len(context.ops)
    context.append(with_fields(alloc, poller, remote=domain))
    for _ in range(CLOCK_READS + 1):
        context.append(Op(read, actor, ()))
    timeout = CLOCK_WINDOW + CLOCK_TICK
    context.append(with_fields(poll, poller, ports=(Ref(port),), count=1, timeout=timeout))
    context.append(Op(load, actor, (word, 8)))
    for _ in range(CLOCK_READS):
        context.append(Op(read, actor, ()))
    for _ in range(before):
        context.append(Op(leave, actor, (0,)))
    for cost in fill[1:] if context.chance(0.15) else fill:
        kind = kinds[cost]
        context.append(Op(kind, actor, (word, 8) if kind is load else ()))
    context.append(Op(leave, actor, (0,)))
    context.append(Op(leave, poller, (0,)))


def waiting_borders(context: Context) -> None:
    """Append one of these sequences."""
    context.pick((wake_of_the_awake, deadline_met_exactly))(context)
