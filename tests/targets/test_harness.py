"""The harnesses: weights name existing kinds and families, and a mistyped name gets a suggestion."""

import random

import pytest

from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.harness import HARNESSES, Harness, HarnessError, find_harness


@pytest.mark.parametrize("harness", HARNESSES.values(), ids=list(HARNESSES))
def test_weights_name_kinds_and_families(harness: Harness) -> None:
    ops = catalogue(ABI)
    weights = Grammar(ops, harness.weights).weights
    allowed = {kind for kind, weight in weights.items() if weight}
    rng = random.Random(1)
    seen = {op.kind for _ in range(50) for op in generate(rng, ops, weights=harness.weights).ops}
    assert seen <= allowed


def test_a_harness_is_found_by_its_name_and_by_its_file() -> None:
    assert find_harness("dma") is find_harness("fuzz_dma")


def test_a_mistyped_harness_gets_a_suggestion() -> None:
    with pytest.raises(HarnessError, match="did you mean 'translation'"):
        find_harness("translate")
