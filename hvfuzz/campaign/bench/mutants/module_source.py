"""The source of one module as bytes and as a tree, with the functions in it and the text of each node."""

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import hvfuzz

PACKAGE: Final = Path(hvfuzz.__file__).parent

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Place(NamedTuple):
    """A node of a function, with the statement that it belongs to."""

    node: ast.AST
    statement: ast.stmt


class ModuleSource:
    """The file at `path`, which is relative to the package hvfuzz."""

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self.file: Final = PACKAGE / path
        self.bytes: Final = self.file.read_bytes()

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        parts = ("hvfuzz", *Path(self.path).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.bytes)

    @cached_property
    def _line_starts(self) -> list[int]:
        starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """The bytes of `node`: from, up to. Parentheses around an expression are not part of it."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        starts = self._line_starts
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> str:
        """The source of `node`."""
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def functions(self) -> Iterator[tuple[str, Function]]:
        """The qualified name and the definition of each function, nested ones included, in the order of the source."""
        return _functions(self.tree, "")


def _functions(parent: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Function):
            yield prefix + node.name, node
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)


def places(function: Function) -> Iterator[Place]:
    """The nodes of the body of `function`, in the order of the source.

    Left out are nested functions and classes, which are functions of their own or run once, annotations, messages (the
    inside of `raise`, f-strings), and assertions, which are no part of a build that is optimised.
    """
    for statement in function.body:
        yield from _places(statement, statement)


def _places(node: ast.AST, statement: ast.stmt) -> Iterator[Place]:
    if isinstance(node, Function | ast.ClassDef | ast.JoinedStr | ast.Assert):
        return
    if isinstance(node, ast.stmt):
        statement = node
    yield Place(node, statement)
    if isinstance(node, ast.Raise):
        return
    for name, value in ast.iter_fields(node):
        if name == "annotation":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _places(child, statement)


def head(statement: ast.stmt) -> tuple[int, int]:
    """The first and the last line of a statement; of a compound one, the lines of its head."""
    last = statement.end_lineno or statement.lineno
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body:
        last = max(statement.lineno, body[0].lineno - 1)
    return statement.lineno, last
