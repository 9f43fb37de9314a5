"""Every rule has its words, and no words are left of a rule that is gone."""

from __future__ import annotations

import pytest

from hvfuzz.explain.judgement.rule_words import RULE_WORDS, Harm, words_of
from hvfuzz.oracles.contract.specification import Specification
from hvfuzz.oracles.framework.all_oracles import ORACLES
from hvfuzz.oracles.framework.audit import Audit

RULES = {f"{oracle.name}/{rule}" for oracle in ORACLES for rule in oracle.rules}
ELSEWHERE = {"host_memory/thread"}
"""Reported by the target, and not a rule that an oracle states."""


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_has_words(rule: str) -> None:
    oracle, _, name = rule.partition("/")
    words = words_of(oracle, name)
    assert words.weakness
    assert not words.forgotten.endswith(".")
    if rule not in RULE_WORDS:
        # Kinds of cells of the specification, and what the audit finds: they have common words.
        assert oracle in (Specification.name, Audit.name)
        assert words.harm is Harm.CONTRACT


def test_no_words_are_left_over() -> None:
    assert set(RULE_WORDS) - RULES <= ELSEWHERE


def test_the_audit_speaks_as_the_oracle_whose_rule_it_checks() -> None:
    assert words_of("audit", "stale.tlb") == words_of("stale", "tlb")
    assert words_of("host_memory", "exception:KeyError") == words_of("host_memory", "exception")
