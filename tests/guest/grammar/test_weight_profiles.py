"""A rotation of weight profiles gives every family of ops, and every pair of families, most of the programs in turn."""

from collections import Counter
from itertools import combinations
from random import Random

import pytest

from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.grammar.op_weights import weight_of
from hvfuzz.guest.grammar.weight_profiles import FOCUS, TURN, WeightRotation, weight_profiles
from hvfuzz.guest.program.ops import Catalogue, catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.harness import HARNESSES


@pytest.fixture(scope="module")
def ops() -> Catalogue:
    return catalogue(ABI)


def test_every_family_and_every_pair_of_families_has_a_profile(ops: Catalogue) -> None:
    families = list(dict.fromkeys(kind.family for kind in ops.kinds))
    names = [profile.name for profile in weight_profiles(ops, {})]
    assert names == ["", *families, *("+".join(pair) for pair in combinations(families, 2))]


@pytest.mark.parametrize("harness", HARNESSES)
def test_a_focus_has_its_share_and_leaves_the_ratios_of_the_rest(ops: Catalogue, harness: str) -> None:
    base = HARNESSES[harness].weights
    for profile in weight_profiles(ops, base)[1:]:
        focus = profile.name.split("+")
        weights = Grammar(ops, profile.weights).weights
        by_family = Counter[str]()
        for kind, weight in weights.items():
            by_family[kind.family] += weight
        rest = sum(weight for family, weight in by_family.items() if family not in focus)
        for family in focus:
            assert by_family[family] == pytest.approx(FOCUS * rest / len(focus), rel=0.01), profile.name
        for family in focus:
            assert len({weights[kind] for kind in ops.kinds if kind.family == family}) == 1
        others = [kind for kind in ops.kinds if kind.family not in focus]
        assert {weights[kind] * sum(weight_of(each, base) for each in others) for kind in others} == {
            weight_of(kind, base) * rest for kind in others
        }


def test_programs_of_a_profile_consist_mostly_of_its_families(ops: Catalogue) -> None:
    (profile,) = (each for each in weight_profiles(ops, {}) if each.name == "time+console")
    rng = Random(1)
    made = Counter(op.kind.family for _ in range(300) for op in generate(rng, ops, weights=profile.weights).ops)
    usual = Counter(op.kind.family for _ in range(300) for op in generate(rng, ops).ops)
    assert min(made["time"], made["console"]) > 8 * max(usual["time"], usual["console"])


def test_each_profile_has_its_turn_of_programs(ops: Catalogue) -> None:
    profiles = weight_profiles(ops, {})
    rotation = WeightRotation(profiles, seed=3)
    used = [rotation.at(runs).name for runs in range(2 * TURN * len(profiles))]
    assert Counter(used) == {profile.name: 2 * TURN for profile in profiles}
    assert rotation.profiles == len(profiles)
    assert rotation.turns == 2 * len(profiles)
    assert used[0] == used[TURN - 1] != used[TURN]


def test_the_order_depends_on_the_seed_alone(ops: Catalogue) -> None:
    profiles = weight_profiles(ops, {})
    orders = [
        [rotation.at(turn * TURN).name for turn in range(len(profiles))]
        for rotation in (WeightRotation(profiles, seed) for seed in (1, 1, 2))
    ]
    assert orders[0] == orders[1] != orders[2]
