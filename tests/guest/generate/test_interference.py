"""Interference is placed where it reaches something, and nowhere if the weights say so."""

from collections import Counter
from random import Random

from hvfuzz.abi.status import Status
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.generate.interference.denied_requests import SHORTAGES, asks_for_memory
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.mutate.interference_mutator import interfere
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program, batched, defect
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.cached_entries import Cache

CATALOGUE = catalogue(ABI)
GRAMMAR = grammar_for(CATALOGUE)
NAMES = ("deny", "retain", "evict")


def programs(count: int, weights: dict[str, int] | None = None) -> list[Program]:
    """Generated programs of about 30 ops."""
    return [generate(Random(seed), CATALOGUE, ops=30, weights=weights) for seed in range(count)]


def test_denials_stand_before_what_asks_for_memory() -> None:
    before: Counter[bool] = Counter()
    for program in programs(400):
        for op, following in zip(program.ops, program.ops[1:], strict=False):
            if op.kind.name == "deny":
                before[asks_for_memory(following.kind)] += 1
    assert before[True] > 100
    assert before[True] > 2 * before[False]


def test_those_that_ask_are_known_by_their_declarations() -> None:
    asking = {kind.name for kind in CATALOGUE.kinds if asks_for_memory(kind)}
    assert {"memory.populate", "memory.exchange", "event.alloc", "grant.map", "device.dma_map", "multicall"} <= asking
    assert asking.isdisjoint(("event.send", "grant.unmap", "device.dma_unmap", "load", "deny"))
    assert {Status.NO_MEMORY, Status.NO_POOL} == SHORTAGES


def test_every_cache_loses_entries() -> None:
    lost = {
        (op.kind.name, op.values[0]) for program in programs(400) for op in program.ops if op.kind.name in NAMES[1:]
    }
    assert {(name, int(cache)) for name in NAMES[1:] for cache in Cache} <= lost


def test_weights_of_zero_allow_none() -> None:
    weights = dict.fromkeys(NAMES, 0)
    assert not any(op.kind.name in NAMES for program in programs(100, weights) for op in program.ops)
    grammar = grammar_for(CATALOGUE, weights)
    for seed, program in enumerate(programs(30, weights)):
        assert interfere(grammar, Random(seed), program.world, list(program.ops)) == list(program.ops)


def test_the_mutator_inserts_one_op_and_cuts_no_batch() -> None:
    inserted: Counter[str] = Counter()
    for seed, program in enumerate(programs(300)):
        ops = list(program.ops)
        after = interfere(GRAMMAR, Random(seed), program.world, list(ops))
        assert defect(Program(program.world, tuple(after))) is None
        if len(after) == len(ops):
            continue
        at = next(index for index, (old, new) in enumerate(zip([*ops, None], after, strict=True)) if old != new)
        inserted[after[at].kind.name] += 1
        assert not any(index < at <= index + batched(ops, index) for index in range(len(ops)))
    assert min(inserted[name] for name in NAMES) > 10
