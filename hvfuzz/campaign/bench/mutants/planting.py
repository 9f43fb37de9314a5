"""Plants a mutant: the code of the functions that it changes is exchanged, wherever those functions are referred to.

A planted bug replaces a function by another one, in its class, its module and the tables of modules. A mutant keeps the
function and changes its code, so methods bound long ago, properties, tables of any kind, closures and machines that are
booted already have it as well; and nothing has to be known about how the function is reached.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from types import CodeType, FunctionType, ModuleType
from typing import Final

from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.mutant import Mutant

KEPT_FLAGS: Final = 0x20 | 0x80 | 0x200
"""Generator, coroutine, asynchronous generator: how a function is called depends on them."""

_Key = tuple[str, int]


class Unsupported(Exception):
    """The mutant cannot be planted, or would change nothing; the message says why."""


def changed_code(mutant: Mutant, source: ModuleSource, file: str) -> dict[_Key, CodeType]:
    """The new code of each function that the mutant changes, by qualified name and first line of the old one.

    Raises Unsupported.
    """
    old = compile(source.bytes, file, "exec", dont_inherit=True)
    try:
        new = compile(mutant.apply(source.bytes), file, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise Unsupported(f"the edit is not Python: {error.msg}") from error
    pairs = list(_paired(old, new))
    changed = {_key(before): after for before, after in pairs if not _same(before, after)}
    if not changed:
        raise Unsupported("the compiled code is the same")
    if len([1 for before, _ in pairs if _key(before) in changed]) != len(changed):
        raise Unsupported("two functions have one name and line")
    return changed


def _key(code: CodeType) -> _Key:
    return code.co_qualname, code.co_firstlineno


def _nested(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]


def _paired(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The code objects within `old`, each with its counterpart in `new`."""
    before, after = _nested(old), _nested(new)
    if [each.co_qualname for each in before] != [each.co_qualname for each in after]:
        return  # The edit drops or repeats a nested function: it is made anew whenever the outer one runs.
    for one, other in zip(before, after, strict=True):
        yield one, other
        yield from _paired(one, other)


def _same(old: CodeType, new: CodeType) -> bool:
    """Whether two code objects do the same, but for the lines that they stand in."""
    if (old.co_code, old.co_names, old.co_varnames, old.co_freevars, old.co_cellvars, old.co_exceptiontable) != (
        (new.co_code, new.co_names, new.co_varnames, new.co_freevars, new.co_cellvars, new.co_exceptiontable)
    ):
        return False
    if len(old.co_consts) != len(new.co_consts):
        return False
    for one, other in zip(old.co_consts, new.co_consts, strict=True):
        if isinstance(one, CodeType) and isinstance(other, CodeType):
            if not _same(one, other):
                return False
        elif type(one) is not type(other) or one != other:
            return False
    return True


def _caches(functions: list[FunctionType]) -> list[_lru_cache_wrapper[object]]:
    """The caches of results that one of `functions` has computed."""
    changed = {id(function) for function in functions}
    return [
        item
        for item in gc.get_objects()
        if type(item) is _lru_cache_wrapper and id(getattr(item, "__wrapped__", None)) in changed
    ]


def _functions(changed: dict[_Key, CodeType], file: str) -> list[tuple[FunctionType, CodeType]]:
    found = []
    for item in gc.get_objects():
        if type(item) is FunctionType and item.__code__.co_filename == file:
            code = changed.get(_key(item.__code__))
            if code is not None:
                found.append((item, code))
    return found


@contextmanager
def planted_mutant(mutant: Mutant, source: ModuleSource) -> Iterator[None]:
    """Plant `mutant`, an edit of `source`, for the length of the block. Raises Unsupported.

    What ran before, such as a boot, stays as it was: whether it has to be done again is for the caller to know.
    """
    module: ModuleType = importlib.import_module(source.module)
    file = module.__file__
    if file is None:
        raise Unsupported(f"{source.module} has no file")
    exchanged = _functions(changed_code(mutant, source, file), file)
    if not exchanged:
        raise Unsupported("the function exists only while its module is imported, or while another function runs")
    originals = [(function, function.__code__) for function, _ in exchanged]
    for function, code in exchanged:
        old = function.__code__
        if old.co_freevars != code.co_freevars or (old.co_flags ^ code.co_flags) & KEPT_FLAGS:
            raise Unsupported("the function refers to other variables of an outer function, or is a generator no more")
    caches = _caches([function for function, _ in exchanged])
    try:
        for function, code in exchanged:
            function.__code__ = code
        for cache in caches:
            cache.cache_clear()
        yield
    finally:
        for function, old in originals:
            function.__code__ = old
        for cache in caches:
            cache.cache_clear()
