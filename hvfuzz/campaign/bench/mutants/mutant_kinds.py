"""The kinds of mutants: what each does to the body of a function.

They are general on purpose: none knows the hypervisor, but for the names of rights and of the roles of domains.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.campaign.bench.mutants.module_source import Function, ModuleSource, Place, head


class Edit(NamedTuple):
    """A replacement of the bytes from `start` to `end`, which matters when one of `lines` (first, last) is executed."""

    start: int
    end: int
    after: str
    lines: tuple[int, int]


Kind = Callable[[ModuleSource, Function, Sequence[Place]], Iterator[Edit]]

COMPARISONS: Final[Mapping[type[ast.cmpop], tuple[str, str]]] = MappingProxyType(
    {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
)
RIGHTS: Final = MappingProxyType({"READ": "WRITE", "WRITE": "READ", "READ_WRITE": "READ", "EXEC": "READ"})
ROLES: Final = (
    "caller",
    "target",
    "owner",
    "granter",
    "grantee",
    "domain",
    "peer",
    "remote",
    "sender",
    "receiver",
    "source",
    "dest",
)
"""Names of variables that hold a domain, or its number."""
FETCHES: Final = frozenset(
    {
        "copy_from_guest",
        "raw_copy_from_guest",
        "fetch_operand",
        "_fetch_piece",
        "read_at",
        "fetch",
        "read64",
        "load64",
        "read",
        "_read_entry",
    }
)
"""Functions whose result someone else may change between two calls."""


def _replace(source: ModuleSource, node: ast.expr | ast.stmt, after: str, statement: ast.stmt) -> Edit:
    return Edit(*source.span(node), after, head(statement))


def _ends_the_block(body: Sequence[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def _binds(node: ast.AST) -> bool:
    return any(isinstance(each, ast.NamedExpr) for each in ast.walk(node))


def drop_check(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """An `if` whose body refuses, raises or leaves the loop is never taken."""
    for node, statement in places:
        if isinstance(node, ast.If) and _ends_the_block(node.body) and not _binds(node.test):
            yield _replace(source, node.test, "False", statement)


def drop_operand(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """One of the conditions that `and` or `or` joins does not count."""
    for node, statement in places:
        if isinstance(node, ast.BoolOp):
            neutral = "True" if isinstance(node.op, ast.And) else "False"
            yield from (_replace(source, each, neutral, statement) for each in node.values if not _binds(each))


def negate(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """A condition is the opposite of what it should be."""
    for node, statement in places:
        if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Constant):
            yield _replace(source, node.test, f"(not ({source.text(node.test)}))", statement)


def drop_call(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """A call for its effect is left out: a flush, a scrub, the release of a frame."""
    for node, statement in places:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield _replace(source, node, "pass", statement)


def drop_count(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """Something is not counted: an augmented assignment is left out."""
    for node, statement in places:
        if isinstance(node, ast.AugAssign):
            yield _replace(source, node, "pass", statement)


def drop_store(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """A change of an object's attribute, or of an entry of a table, is left out; not in `__init__`."""
    if function.name == "__init__":
        return
    for node, statement in places:
        if isinstance(node, ast.Assign):
            stores = all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
        else:
            stores = isinstance(node, ast.Delete)
        if stores:
            yield _replace(source, statement, "pass", statement)


def off_by_one(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """A number is one too large, or a comparison includes its limit, or leaves it out."""
    for node, statement in places:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            more = node.value + 1
            yield _replace(source, node, hex(more) if source.text(node).startswith("0x") else str(more), statement)
        elif isinstance(node, ast.Compare):
            left = node.left
            for operator, right in zip(node.ops, node.comparators, strict=True):
                known = COMPARISONS.get(type(operator))
                if known is not None:
                    start, end = source.span(left)[1], source.span(right)[0]
                    found = re.search(re.escape(known[0]).encode(), source.bytes[start:end])
                    if found is not None:
                        yield Edit(start + found.start(), start + found.end(), known[1], head(statement))
                left = right


def swap(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """A right is another right, or a domain is another domain that the function knows."""
    arguments = function.args
    named = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    named |= {place.node.id for place in places if isinstance(place.node, ast.Name)}
    roles = [role for role in ROLES if role in named]
    for node, statement in places:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            if node.id in RIGHTS:
                # The other right may not be imported there: only where the function or its module names it.
                if re.search(rf"\b{RIGHTS[node.id]}\b".encode(), source.bytes):
                    yield _replace(source, node, RIGHTS[node.id], statement)
            elif node.id in roles:
                other = next((role for role in roles if role != node.id), None)
                if other is not None:
                    yield _replace(source, node, other, statement)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in RIGHTS:
            yield _replace(source, node, f"{source.text(node.value)}.{RIGHTS[node.attr]}", statement)


def fetch_twice(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """What another vCPU or a device may change is fetched twice, and the second copy is used."""
    for node, statement in places:
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in FETCHES and not _binds(node):
                text = source.text(node)
                yield _replace(source, node, f"({text}, {text})[1]", statement)


def early_return(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """A function that returns nothing ends before one of its later statements."""
    if any(isinstance(node, ast.Return) and node.value is not None for node, _ in places):
        return
    for statement in function.body[1:]:
        text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)  # of an attribute
        if not text and not isinstance(statement, Function | ast.ClassDef | ast.Return | ast.Raise | ast.Assert):
            first = source.text(statement).partition("\n")[0]
            start, _ = source.span(statement)
            after = f"return\n{' ' * statement.col_offset}{first}"
            yield Edit(start, start + len(first.encode()), after, head(statement))


def last_iteration(source: ModuleSource, function: Function, places: Sequence[Place]) -> Iterator[Edit]:
    """A loop leaves out its last turn."""
    for node, statement in places:
        if isinstance(node, ast.For):
            yield _replace(source, node.iter, f"[*({source.text(node.iter)})][:-1]", statement)


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "drop-check": drop_check,
        "drop-operand": drop_operand,
        "negate": negate,
        "drop-call": drop_call,
        "drop-count": drop_count,
        "drop-store": drop_store,
        "off-by-one": off_by_one,
        "swap": swap,
        "fetch-twice": fetch_twice,
        "early-return": early_return,
        "last-iteration": last_iteration,
    }
)
