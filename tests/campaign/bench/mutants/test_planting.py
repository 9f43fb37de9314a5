"""Planting: the mutant is everywhere, and gone afterwards; what cannot be planted says so."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from hvfuzz.campaign.bench.mutants.generation import mutants_of
from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.planting import Unsupported, planted_mutant

EXAMPLE = '''\
"""A module."""
import dataclasses
import functools


def plain(n):
    return n + 1


class Base:
    def limit(self):
        return 5


@dataclasses.dataclass(slots=True)
class Thing(Base):
    size: int

    @property
    def double(self):
        return self.size * 2

    @double.setter
    def double(self, value):
        self.size = value // 2

    @staticmethod
    def fixed():
        return 7

    @classmethod
    def make(cls):
        return cls(3)

    @functools.cached_property
    def nothing(self):
        return 1


class Larger(Base):
    def limit(self):
        return super().limit() + 10


def maker(step):
    def inner(n):
        return n + step * 100

    return inner


def deaf(outer):
    def inner(n):
        if n > 3:
            return outer
        return 4

    return inner


def turns(n):
    while n > 0:
        n -= 1
        yield n


def counts(n):
    return [each + 1 for each in range(n)]


@functools.lru_cache(8)
def kept(n):
    return n + 3


MADE = maker(1)
DEAF = deaf("outer")
THING = Thing(4)
BOUND = Larger().limit
TABLE = {"plain": (plain, None)}
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("hvfuzz.campaign.bench.mutants.module_source.PACKAGE", tmp_path)
    file = tmp_path / "example.py"
    file.write_text(EXAMPLE)
    made = ModuleType("hvfuzz.example")
    made.__file__ = str(file)
    exec(compile(EXAMPLE, str(file), "exec"), made.__dict__)
    monkeypatch.setitem(sys.modules, "hvfuzz.example", made)
    return made


def mutant(identity: str) -> tuple[Mutant, ModuleSource]:
    source = ModuleSource("example.py")
    return next(each for each in mutants_of(source) if each.id == f"example.py:{identity}"), source


@pytest.mark.parametrize(
    ("identity", "expression", "before", "after"),
    [
        ("plain:off-by-one:1", "plain(1)", 2, 3),
        ("plain:off-by-one:1", "TABLE['plain'][0](1)", 2, 3),
        ("Thing.double:off-by-one:1", "THING.double", 8, 12),
        ("Thing.fixed:off-by-one:1", "Thing.fixed()", 7, 8),
        ("Thing.make:off-by-one:1", "Thing.make().size", 3, 4),
        ("Larger.limit:off-by-one:1", "BOUND()", 15, 16),
        ("Base.limit:off-by-one:1", "BOUND()", 15, 16),
        ("maker.inner:off-by-one:1", "MADE(1)", 101, 102),
        ("maker.inner:off-by-one:1", "maker(1)(1)", 101, 102),
        ("kept:off-by-one:1", "kept(1)", 4, 5),
        ("turns:off-by-one:2", "list(turns(2))", [1, 0], [1]),
        ("counts:off-by-one:1", "counts(2)", [1, 2], [2, 3]),
    ],
)
def test_the_mutant_is_everywhere_and_then_gone(
    module: ModuleType, identity: str, expression: str, before: object, after: object
) -> None:
    assert eval(expression, module.__dict__) == before
    with planted_mutant(*mutant(identity)):
        assert eval(expression, module.__dict__) == after
    assert eval(expression, module.__dict__) == before


def test_a_setter_is_another_function_than_its_property(module: ModuleType) -> None:
    with planted_mutant(*mutant("Thing.double#2:off-by-one:1")):
        module.THING.double = 9
        assert module.THING.size == 3
        assert module.THING.double == 6


def test_an_exception_removes_the_mutant(module: ModuleType) -> None:
    with pytest.raises(KeyError), planted_mutant(*mutant("plain:off-by-one:1")):
        raise KeyError
    assert module.plain(1) == 2


def test_what_cannot_be_planted_says_so(module: ModuleType) -> None:
    source = ModuleSource("example.py")
    start = EXAMPLE.index("outer\n        return 4")
    loses = Mutant("example.py", "deaf.inner", "drop", 1, (51, 51), start, start + 5, "outer", "None")
    with pytest.raises(Unsupported, match="other variables"), planted_mutant(loses, source):
        pass
    start = EXAMPLE.index("yield n")
    ends = Mutant("example.py", "turns", "drop", 1, (59, 59), start, start + 7, "yield n", "pass")
    with pytest.raises(Unsupported, match="generator"), planted_mutant(ends, source):
        pass
    start = EXAMPLE.index("n + 1")
    for after, why in (("n +", "not Python"), ("n  + 1", "the same")):
        edit = Mutant("example.py", "plain", "edit", 1, (7, 7), start, start + 5, "n + 1", after)
        with pytest.raises(Unsupported, match=why), planted_mutant(edit, source):
            pass
    del module.plain, module.TABLE
    with pytest.raises(Unsupported, match="exists only"), planted_mutant(*mutant("plain:off-by-one:1")):
        pass
