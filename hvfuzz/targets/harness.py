"""The harnesses: each a part of the grammar and the worlds that it starts in, over the same programs and oracles."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import NamedTuple


class HarnessError(Exception):
    """No harness has that name."""


class Harness(NamedTuple):
    """One entry point of the fuzzer.

    `weights` says how often the generator and the mutator choose a kind or a family of ops (a kind's own name wins;
    what is absent gets the weight of "*", or else the default). The decoder stays total: a seed may hold any op.
    """

    name: str
    title: str
    weights: Mapping[str, int]


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
                {"*": 2, "raw": 24, "discovery": 6, "access": 1, "trap": 0, "tlb": 0},
            ),
            Harness(
                "translation",
                "page tables and TLB: stage-1 edits, accesses, invalidation, and what changes stage 2",
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
        )
    }
)


def find_harness(name: str) -> Harness:
    """The harness called `name` (``fuzz_`` in front is passed over); raises `HarnessError` with the nearest name."""
    harness = HARNESSES.get(name.removeprefix("fuzz_"))
    if harness is None:
        near = get_close_matches(name.removeprefix("fuzz_"), HARNESSES, 1, 0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise HarnessError(f"no harness {name!r}{hint} (known: {', '.join(HARNESSES)})")
    return harness
