"""The table of mutators: an entry here adds a mutator.

A mutator takes the grammar, a source of random numbers, the world and a non-empty list of ops, which it may change
and return. The result is well-formed if the list was; it may be longer than MAX_OPS.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, TypeAlias

from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.argument_mutators import change_argument, copy_with_change, replace_everywhere
from hvfuzz.guest.mutate.call_mutators import change_actor, change_mangle, make_raw_call
from hvfuzz.guest.mutate.interference_mutator import interfere
from hvfuzz.guest.mutate.op_mutators import (
    consume_result,
    delete_ops,
    duplicate_ops,
    insert_ops,
    move_op,
    repeat_op,
    wrap_in_multicall,
)
from hvfuzz.guest.mutate.race_mutators import change_race
from hvfuzz.guest.program.program import Op

Mutator: TypeAlias = Callable[[Grammar, Random, int, list[Op]], list[Op]]

MUTATORS: Final[tuple[tuple[Mutator, int], ...]] = (
    (change_argument, 34),
    (insert_ops, 16),
    (consume_result, 10),
    (delete_ops, 9),
    (change_race, 8),
    (move_op, 5),
    (duplicate_ops, 5),
    (change_actor, 5),
    (change_mangle, 4),
    (copy_with_change, 7),
    (repeat_op, 5),
    (replace_everywhere, 3),
    (make_raw_call, 2),
    (wrap_in_multicall, 2),
    (interfere, 4),
)
"""(Mutator, weight)."""
