"""No subject judges itself: oracles take types and layouts from hypervisor and devices, and run no code of theirs."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hvfuzz.guest.format.text import parse
from hvfuzz.machine.devices.register_windows import registers_of
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

ROOT = Path(__file__).parents[2]
SUBJECTS = ("hvfuzz.hypervisor.", "hvfuzz.machine.devices.")
FRAME_WORD = "the frame table is the hypervisor's own: its format is what the hypervisor says it is"
#: What oracles may import of their subjects -> why that is no judgement.
ALLOWED = {
    "hvfuzz.hypervisor.core.domains.Port": "type of the entries of a table that is read",
    "hvfuzz.hypervisor.core.domains.PortState": "type of the entries of a table that is read",
    "hvfuzz.hypervisor.core.host.HostFault": "exception to classify",
    "hvfuzz.hypervisor.core.hypervisor.CONTROL_AREA": "where the area is that must not change; boot is checked apart",
    "hvfuzz.hypervisor.core.observer.Observer": "interface by which the hypervisor tells what it does",
    "hvfuzz.hypervisor.core.observer.SILENT": "the observer that listens to nothing",
    "hvfuzz.hypervisor.ipc.grants.DEVICE": "bit of a mapping's sides in a table that is read",
    "hvfuzz.hypervisor.ipc.grants.HOST": "bit of a mapping's sides in a table that is read",
    "hvfuzz.hypervisor.memory.allocator.HEAP_CANARY": "layout of a heap page's header, which is the hypervisor's own",
    "hvfuzz.hypervisor.memory.allocator.HEAP_HEADER": "layout of a heap page's header, which is the hypervisor's own",
    "hvfuzz.hypervisor.memory.frames.COUNT_MASK": FRAME_WORD,
    "hvfuzz.hypervisor.memory.frames.FREE_WORD": FRAME_WORD,
    "hvfuzz.hypervisor.memory.frames.FrameState": FRAME_WORD,
    "hvfuzz.hypervisor.memory.frames.MAPS_SHIFT": FRAME_WORD,
    "hvfuzz.hypervisor.memory.frames.PINS_SHIFT": FRAME_WORD,
    "hvfuzz.hypervisor.memory.frames.STATE_SHIFT": FRAME_WORD,
    "hvfuzz.hypervisor.memory.table_pool.POISON": "value that marks a page of a pool as unused",
    "hvfuzz.hypervisor.memory.table_tree.FOREIGN": "a bit of table entries that hardware leaves to software",
}
#: (importing module, name): what runs the hypervisor, to watch it.
RUNS_IT = {("hvfuzz/oracles/framework/suite.py", "hvfuzz.hypervisor.core.exits")}
#: (calling module, function) -> what it calls of a subject, to run or to watch it.
CALLS = {
    ("hvfuzz.oracles.framework.suite", "OracleSuite.handle_exit", "hvfuzz.hypervisor.core.exits", "handle_exit"),
    ("hvfuzz.oracles.framework.suite", "OracleSuite._listen", "hvfuzz.hypervisor.core.host", "HostMemory.watch"),
    (
        "hvfuzz.oracles.host.hooked_hardware",
        "hooked_device.<locals>.reset",
        "hvfuzz.machine.devices.dma_engine",
        "DmaEngine.reset",
    ),
}


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module, without those under `if TYPE_CHECKING`."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from executed(child)


def borrowed(source: str) -> Iterator[str]:
    """The dotted names that a module imports from the hypervisor and the devices when it runs."""
    for node in executed(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if f"{name}.".startswith(SUBJECTS))


MODULES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "hvfuzz/oracles").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_an_oracle_imports_types_and_layouts_only(path: str) -> None:
    names = borrowed((ROOT / path).read_text())
    assert [name for name in names if name not in ALLOWED and (path, name) not in RUNS_IT] == []


def test_what_is_allowed_is_used_and_no_function() -> None:
    used = {name for path in MODULES for name in borrowed((ROOT / path).read_text())}
    assert used == {*ALLOWED, *(name for _, name in RUNS_IT)}
    for name in ALLOWED:
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        assert isinstance(value, type) or not callable(value), name


@pytest.mark.parametrize(
    "source",
    [
        "from hvfuzz.machine.devices.dma_engine import DmaEngine",
        "def f():\n    from hvfuzz.hypervisor.devices import uart",
        "import hvfuzz.hypervisor.core.boot",
    ],
)
def test_a_borrowed_judgement_is_seen(source: str) -> None:
    assert list(borrowed(source))
    assert not list(borrowed("if TYPE_CHECKING:\n    " + source.rpartition("\n")[2].strip()))


def watch(calls: set[tuple[str, str, str, str]]) -> Any:
    """A profile function that notes each call from an oracle into a subject."""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith(SUBJECTS):
            caller = frame.f_back
            origin = caller.f_globals.get("__name__", "") if caller is not None else ""
            if caller is not None and origin.startswith("hvfuzz.oracles."):
                calls.add((origin, caller.f_code.co_qualname, name, frame.f_code.co_qualname))

    return profile


def test_no_oracle_runs_code_of_its_subject() -> None:
    """At boot, in programs of each harness and world, and in the audit after each."""
    programs = sorted((ROOT / "corpus").rglob("*.hvp"))
    calls: set[tuple[str, str, str, str]] = set()
    with EmulatedTarget() as target:
        for path in programs[::5]:
            program = parse(path.read_text(), target.catalogue)
            before = sys.getprofile()
            sys.setprofile(watch(calls))
            try:
                target.run(program)
            finally:
                sys.setprofile(before)
    assert calls == CALLS


def test_a_call_into_a_subject_is_seen() -> None:
    calls: set[tuple[str, str, str, str]] = set()
    code = compile("def judge(ask, *about):\n    return ask(*about)\n", "judge.py", "exec")
    oracle: dict[str, Any] = {"__name__": "hvfuzz.oracles.example"}
    exec(code, oracle)

    before = sys.getprofile()
    sys.setprofile(watch(calls))
    try:
        oracle["judge"](registers_of, 1)
    finally:
        sys.setprofile(before)
    assert [call[2:] for call in calls] == [("hvfuzz.machine.devices.register_windows", "registers_of")]
