"""The harnesses: entry points of the fuzzer that differ in how often they choose each kind of op."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import NamedTuple

from hvfuzz.guest.program.instruction_kinds import TRAP_FAMILIES


class HarnessError(Exception):
    """There is no harness with the given name."""


class Harness(NamedTuple):
    """One entry point of the fuzzer.

    `weights` maps kinds and families of ops to the relative frequency with which generator and mutator choose them. A
    kind takes precedence over its family; the weight of "*", or else the default, applies to all others. Weights do
    not limit the decoder: a seed may contain any op. With `pairs`, each program is run in pairs, which alone judge it
    (`targets/pairs/`); otherwise the oracles do, and a sample is run in pairs.
    """

    name: str
    title: str
    weights: Mapping[str, int]
    pairs: bool = False


HARNESSES: Mapping[str, Harness] = MappingProxyType(
    {
        harness.name: harness
        for harness in (
            Harness(
                "hypercalls",
                "whole programs: every hypercall, instruction and race",
                {},
            ),
            Harness(
                "abi",
                "decoding: malformed structs, raw VMCALLs, hostile buffers",
                {
                    "*": 2,
                    "raw": 24,
                    "discovery": 6,
                    "access": 1,
                    "tlb": 0,
                    "deny": 0,
                    **dict.fromkeys(TRAP_FAMILIES, 0),
                },
            ),
            Harness(
                "translation",
                "page tables and TLB: stage-1 edits, accesses, invalidation, and changes of stage 2",
                {
                    "access": 8,
                    "memory": 6,
                    "grant": 3,
                    "invlpg": 4,
                    "mov_cr": 2,
                    "syscall": 1,
                    "sysret": 1,
                    "tlb": 2,
                },
            ),
            Harness(
                "dma",
                "device and IOMMU: mappings, submissions, a malicious driver, grants to devices",
                {
                    "device": 10,
                    "mmio_read": 3,
                    "mmio_write": 6,
                    "grant": 4,
                    "memory": 2,
                    "store": 2,
                    "load": 2,
                    "tlb": 1,
                },
            ),
            Harness(
                "multicall",
                "batches: many calls in one exit",
                {
                    "multicall": 8,
                    "memory": 2,
                    "grant": 4,
                    "event": 4,
                    "sched": 2,
                    "device": 2,
                    "console": 1,
                    "store": 2,
                },
            ),
            Harness(
                "noninterference",
                "pairs of runs: what a domain sees of the secrets and acts of others",
                {
                    "*": 2,
                    "raw": 1,
                    "tlb": 0,
                    "grant": 1,
                    "event": 1,
                    "multicall": 1,
                    "device": 3,
                    "memory": 8,
                    "sched": 8,
                    "time": 8,
                    "discovery": 4,
                    "load": 6,
                    "store": 6,
                    "rdtsc": 3,
                    "rdmsr": 4,
                    "wrmsr": 4,
                    "cpuid": 3,
                },
                pairs=True,
            ),
        )
    }
)


def find_harness(name: str) -> Harness:
    """The harness called `name`, with or without ``fuzz_``; raises `HarnessError`, which suggests a similar name."""
    harness = HARNESSES.get(name.removeprefix("fuzz_"))
    if harness is None:
        near = get_close_matches(name.removeprefix("fuzz_"), HARNESSES, 1, 0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise HarnessError(f"no harness {name!r}{hint} (known: {', '.join(HARNESSES)})")
    return harness
