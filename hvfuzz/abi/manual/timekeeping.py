"""The prose of ABI.md on time: how a guest can tell it, when deadlines are met, and what ends each way of waiting."""

from inspect import cleandoc
from typing import Final

from hvfuzz.abi.limits import CLOCK_GRAIN, CLOCK_READS, CLOCK_TICK, CLOCK_VALUES, CLOCK_WINDOW


def time_and_waiting() -> str:
    """The sections on time and on waiting."""
    return f"{_time()}\n\n{_waiting()}"


WAYS: Final = (
    ("way to tell time", "what it tells", f"after {CLOCK_READS} reads in the window"),
    ("`time.clock_read`", "the clock in whole grains", "`AGAIN`"),
    (
        "RDTSC, RDTSCP, RDMSR of `TSC`",
        "the same, plus the offset of the vCPU's counter",
        "the vCPU waits until the next window begins, then reads",
    ),
    ("`sched.poll`: whether the vCPU still polls, which `sched.kick` tells, too", "ticks", "not counted"),
    (
        "the timer: `TIMER_EXPIRED`, `TIMER_DELAY`, and its events, which end waiting and change the outcomes of"
        " `sched.block`, `sched.poll` and HLT",
        "ticks",
        "not counted",
    ),
    (
        "the APIC timer: its current count, its interrupts in IRR, which end HLT, and its errors in ESR",
        "ticks",
        "not counted",
    ),
)
WAITS: Final = (
    ("it waits by", "an event", "`event.close` of a port", "time-out", "an interrupt", "`sched.kick`"),
    ("`sched.block`", "on any port of its domain", "-", "-", "-", "yes"),
    ("`sched.poll`", "on a port that it polls", "that it polls", "yes", "-", "yes"),
    ("HLT", "on any port of its domain", "-", "-", "that it can take", "yes"),
    ("a clock read after the last of the window", "-", "-", "the next window", "-", "-"),
    ("a triple fault", "-", "-", "-", "-", "-"),
)


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join((head, "|" + "---|" * len(rows[0]), *rest))


def _time() -> str:
    ticks = CLOCK_WINDOW // CLOCK_TICK
    introduction = cleandoc(f"""
        ## Time

        The virtual clock counts cycles. A guest never learns the clock itself, which would tell how long the work of
        the hypervisor and of other domains takes, but only two roundings of it, each down to a whole number of

        - **grains** of {CLOCK_GRAIN} cycles: the result of a counted read,
        - **ticks** of {CLOCK_TICK} cycles: everything else that depends on time.

        In each **window** of {CLOCK_WINDOW} cycles (window n begins at n * {CLOCK_WINDOW}) a domain learns by itself at
        most {CLOCK_VALUES} values of the clock: the {ticks} ticks, and {CLOCK_READS} counted reads, which all its vCPUs
        share. The ticks are the same for all domains, so events of another domain can tell only what that domain has
        read.
        """)
    deadlines = cleandoc(f"""
        A **deadline** of n cycles that is set in tick t lies in tick t + ceil(n / {CLOCK_TICK}). It is met when a VM
        exit of any vCPU begins in that tick or a later one. Such an exit first ends the polls whose deadline is met,
        then raises the events of the domains' timers, in the order of the domains, then advances the APIC timers, in
        the order of the domains and their vCPUs; then it is handled. Nothing else happens at a deadline, and no
        deadline is met within an exit, however long it takes.
        """)
    return "\n\n".join((introduction, _table(WAYS), deadlines))


def _waiting() -> str:
    rules = cleandoc("""
        - An **event** comes from `event.send` through the peer of a port, or from the domain's timer; no other device
          raises events or interrupts. The port becomes pending. Then the lowest-numbered vCPU of the port's domain
          for which the event ends waiting, by the table, becomes runnable; the others wait on.
        - A **time-out** is a deadline (see Time) of `timeout` cycles.
        - An **interrupt** reaches a vCPU by an IPI of a vCPU of its domain, from its APIC timer, or from its APIC's
          error entry. The vCPU can take it if RFLAGS.IF is set, its APIC is software-enabled, and the vector's
          priority class is above that of PPR. An interrupt that it cannot take, or that comes while it waits
          otherwise, stays in IRR.
        - A vCPU does not begin to wait for what is there: `sched.block` is refused with `AGAIN` while any port of the
          domain is pending, `sched.poll` returns the first pending port of its list, and HLT does not halt while any
          port of the domain is pending or the vCPU can take an interrupt.
        - In a multicall, the vCPU makes the rest of its calls before it waits. The last `sched.block` or `sched.poll`
          that begins to wait decides what it waits for; one that is refused, or returns a pending port, changes
          nothing. Whatever ends the wait ends it already between the calls.
        - While a vCPU waits for the next window, no other vCPU runs.
        """)
    introduction = (
        "## Waiting\n\nA vCPU that waits executes nothing. This ends each way of waiting; what is marked - does not:"
    )
    return "\n\n".join((introduction, _table(WAITS), rules))
