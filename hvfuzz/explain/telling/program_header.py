"""The comments at the head of a reproducer: all that is needed to understand it without the files beside it."""

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import hvfuzz

BUG: Final = "# bug: "
NO_BUG: Final = "none"
MOST: Final = 4096
"""Bytes at the start of a file in which its head is looked for."""


def with_header(text: str, identity: str, message: str, bug: str | None, found_by: str) -> str:
    """`text`, a program, with comments that say what it shows, with which bug planted, and what found it."""
    magic, _, program = text.partition("\n")
    head = [
        f"# finding: {identity}",
        f"# message: {message}",
        f"{BUG}{NO_BUG if bug is None else bug}",
        *([f"# found by: {found_by}"] if found_by else []),
        f"# made with: {_versions()}",
    ]
    return "\n".join([magic, *(_on_one_line(line) for line in head), program])


def bug_in_header(path: Path) -> str | None:
    """The name of the bug that the head of the program in `path` names; None if it names none, or has no head."""
    try:
        with path.open("rb") as file:
            start = file.read(MOST).decode("utf-8", "replace")
    except OSError:
        return None  # reading the program itself says what is wrong
    for line in start.splitlines()[1:]:
        if not line.startswith("#"):
            break
        if line.startswith(BUG):
            name = line.removeprefix(BUG).strip()
            return None if name == NO_BUG else name
    return None


def _on_one_line(text: str) -> str:
    """`text` with escapes for what does not print: the message and the path of a bug file may hold anything."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@cache
def _versions() -> str:
    """What the program ran on: hvfuzz, the hypervisor's source, Python, and the engine."""
    parts = [f"hvfuzz {hvfuzz.__version__}, hypervisor {_digest()}", f"Python {platform.python_version()}"]
    try:
        parts.append(f"atheris {version('atheris')}")
    except PackageNotFoundError:
        parts.append("no atheris")
    return ", ".join(parts)


def _digest() -> str:
    """The start of the SHA-256 of the sources of hypervisor and machine."""
    root = Path(hvfuzz.__file__).parent
    digest = hashlib.sha256()
    for package in ("hypervisor", "machine", "abi"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
