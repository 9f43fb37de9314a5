"""What the hypervisor checked before it carried out a call: the refusals that stand in the code that ran."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from hvfuzz.abi.declaration import Declaration


class Check(NamedTuple):
    """A reason for which the call could have been refused, with the status."""

    reason: str
    status: str


def checks_of(declaration: Declaration) -> tuple[Check, ...]:
    """The refusals that the call's `check` contains, in order, those of the functions that it calls on itself too.

    They are read from the code that runs now: with a bug planted, from the bug's.
    """
    return tuple(dict.fromkeys(_checks(declaration.call)))


def _checks(cls: type) -> Iterator[Check]:
    pending, seen = ["check"], set()
    while pending:
        name = pending.pop(0)
        function = inspect.getattr_static(cls, name, None)
        function = getattr(function, "__func__", function)
        if name in seen or not inspect.isfunction(function):
            continue
        seen.add(name)
        for node in _nodes(function):
            match node:
                case ast.Call(
                    func=ast.Name(id="Refused"), args=[ast.Attribute(attr=status), ast.Constant(value=reason)]
                ):
                    yield Check(str(reason), status)
                case ast.Return(value=ast.Name(id=constant)):
                    refused: Any = function.__globals__.get(constant)
                    if isinstance(refused, tuple) and hasattr(refused, "reason") and hasattr(refused, "status"):
                        yield Check(refused.reason, refused.status.name)
                case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=called)):
                    pending.append(called)


@cache
def _nodes(function: Callable[..., Any]) -> tuple[ast.AST, ...]:
    """The nodes of a function in the order of its source; none if the source is not known."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)]
    return tuple(sorted(nodes, key=lambda node: (node.lineno, node.col_offset)))
