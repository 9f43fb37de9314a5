"""The specification of the local APICs of a domain in x2APIC mode (SDM Vol. 3A, 11.12): reads, writes, interrupts.

An APIC is a list of 64 words, indexed by register number (MSR 0x800 + n is register n). A word that is reserved for the
guest holds hidden state: the errors since the last write of ESR (0x29). The current count is the count itself, which
falls as ticks pass: it is zero exactly if the timer does not run (SDM Vol. 3A, 11.5.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from hvfuzz.abi.limits import CLOCK_TICK

Words = list[int]
PLACES: Final = 64
TPR, PPR, EOI, LDR, SVR, ESR, ERRORS, ICR = 0x08, 0x0A, 0x0B, 0x0D, 0x0F, 0x28, 0x29, 0x30
LVT_TIMER, LVT_ERROR, INITIAL, CURRENT, DIVIDE, SELF_IPI = 0x32, 0x37, 0x38, 0x39, 0x3E, 0x3F
IN_SERVICE, REQUESTED = 0x10, 0x20
MASK: Final = 0x1_0000
PERIODIC: Final = 0x2_0000
READABLE: Final = frozenset(
    (0x02, 0x03, TPR, PPR, LDR, SVR, *range(0x10, 0x29), ICR, *range(0x32, 0x3A), DIVIDE),
)
DEFINED: Final[Mapping[int, int]] = {
    TPR: 0x0000_00FF,
    EOI: 0x0000_0000,
    SVR: 0x0000_03FF,
    ESR: 0x0000_0000,
    ICR: 0xFFFF_FFFF_000C_CFFF,
    0x32: 0x0003_10FF,
    0x33: 0x0001_17FF,
    0x34: 0x0001_17FF,
    0x35: 0x0001_F7FF,
    0x36: 0x0001_F7FF,
    0x37: 0x0001_10FF,
    INITIAL: 0xFFFF_FFFF,
    DIVIDE: 0x0000_000B,
    SELF_IPI: 0x0000_00FF,
}
"""Writable registers, with the bits that are not reserved."""
SPEEDS: Final[Mapping[int, int]] = {0: 2, 1: 4, 2: 8, 3: 16, 8: 32, 9: 64, 10: 128, 11: 1}
"""Divide configuration register -> clock cycles for each count."""


def reads(words: Words, register: int) -> int | None:
    """The result of RDMSR of a register; None for #GP(0)."""
    if register not in READABLE:
        return None
    return processor_priority(words) if register == PPR else words[register]


def takes(register: int, value: int) -> bool:
    """Whether WRMSR of a register succeeds; otherwise it is #GP(0)."""
    return register in DEFINED and value | DEFINED[register] == DEFINED[register]


def written(chips: Sequence[Words], number: int, register: int, value: int) -> None:
    """Apply WRMSR by vCPU `number` to the APICs of its domain."""
    words = chips[number]
    enabled = words[SVR] & 0x100
    if register == EOI:
        _drop_highest(words)
    elif register == SELF_IPI:
        _command(chips, number, value, [number])
    elif register == ESR:
        words[ESR], words[ERRORS] = words[ERRORS], 0
    elif register == ICR:
        words[ICR] = value
        if value & 0x700 == 0:
            _command(chips, number, value & 0xFF, _receivers(chips, number, value))
    elif LVT_TIMER <= register <= LVT_ERROR:
        words[register] = (value & ~0x5000) | (0 if enabled else MASK)
    else:
        words[register] = value
        if register == INITIAL:
            words[CURRENT] = value
        if register == SVR and not value & 0x100:
            for lvt in range(LVT_TIMER, LVT_ERROR + 1):
                words[lvt] |= MASK


def _receivers(chips: Sequence[Words], number: int, command: int) -> list[int]:
    everybody = range(len(chips))
    shorthand = (command & 0xC_0000) >> 18
    if shorthand == 1:
        return [number]
    if shorthand == 2:
        return list(everybody)
    if shorthand == 3:
        return [other for other in everybody if other != number]
    name = command >> 32
    if name == 0xFFFF_FFFF:
        return list(everybody)
    if command & 0x800:
        cluster, some = divmod(name, 0x1_0000)
        return [other for other in everybody if chips[other][LDR] >> 16 == cluster and chips[other][LDR] & some]
    return [other for other in everybody if chips[other][0x02] == name]


def _command(chips: Sequence[Words], sender: int, vector: int, receivers: list[int]) -> None:
    if vector < 0x10:
        _error(chips[sender], 0x20)
        return
    for receiver in receivers:
        interrupt(chips[receiver], vector)


def _error(words: Words, bit: int) -> None:
    words[ERRORS] |= bit
    lvt = words[LVT_ERROR]
    if not lvt & MASK and lvt & 0xF0:
        interrupt(words, lvt & 0xFF)


def interrupt(words: Words, vector: int) -> None:
    """Accept a fixed interrupt, if the APIC is enabled."""
    if words[SVR] & 0x100:
        if vector < 0x10:
            _error(words, 0x40)
        else:
            words[REQUESTED + vector // 32] |= 1 << vector % 32


def _vectors(words: Words, first: int) -> int:
    """The 256 bits of ISR or IRR, which begins at register `first`, as one number."""
    return sum(word << 32 * place for place, word in enumerate(words[first : first + 8]))


def _drop_highest(words: Words) -> None:
    vectors = _vectors(words, IN_SERVICE)
    if vectors:
        highest = vectors.bit_length() - 1
        words[IN_SERVICE + highest // 32] -= 1 << highest % 32


def processor_priority(words: Words) -> int:
    """PPR (SDM Vol. 3A, 11.8.3.1): TPR, unless an interrupt of a higher class is in service."""
    in_service = _vectors(words, IN_SERVICE).bit_length() - 1
    return max(words[TPR], in_service & 0xF0) if in_service > 0 and in_service >> 4 != words[TPR] >> 4 else words[TPR]


def deliverable(words: Words, interrupts_on: bool) -> bool:
    """Whether the processor takes an interrupt now; `interrupts_on` is RFLAGS.IF."""
    requested = _vectors(words, REQUESTED).bit_length() - 1
    return interrupts_on and bool(words[SVR] & 0x100) and requested // 16 > processor_priority(words) // 16


def pass_ticks(words: Words, ticks: int) -> None:
    """Let the count fall for a number of ticks; if it reaches zero, raise the timer's interrupt, once."""
    left = words[CURRENT]
    falls = ticks * CLOCK_TICK // SPEEDS[words[DIVIDE]]
    if falls < left or not left:
        words[CURRENT] = max(left - falls, 0)
        return
    # The mode counts now, at zero, not when the count began.
    if words[LVT_TIMER] & PERIODIC:
        words[CURRENT] = words[INITIAL] - (falls - left) % words[INITIAL]
    else:
        words[CURRENT] = 0
    if not words[LVT_TIMER] & MASK:
        interrupt(words, words[LVT_TIMER] & 0xFF)
