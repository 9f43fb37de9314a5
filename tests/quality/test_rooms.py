"""Rooms of a dozen files, files that can be read in one go, and file names that mean one thing."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hvfuzz"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
ALL = sorted(PACKAGE.rglob("*.py"))
ROOM = 12
LINES = 300
REASON = "Over 300 lines:"
#: File names that mean the same in each of these rooms: what is said twice on purpose, or a role that repeats.
MIRRORED = (
    ("hypervisor/hypercalls", "oracles/contract/spec/calls"),
    ("hypervisor/devices", "oracles/exits/models", "oracles/contract/spec/platform"),
    ("hypervisor/vcpu", "oracles/contract/spec/platform"),
    ("hypervisor/core", "oracles/contract/spec"),
    ("hypervisor/core", "oracles/exits"),
    (
        "references/stage1",
        "references/ept",
        "references/ept/cases",
        "references/ring",
        "references/ring/cases",
        "references/vtd",
    ),
    ("abi", "hypervisor/core"),
    ("campaign", "cli"),
)


def room(path: Path) -> str:
    return str(path.parent.relative_to(PACKAGE))


def test_no_room_holds_more_than_a_dozen_files() -> None:
    crowded = {name: count for name, count in Counter(map(room, ALL)).items() if count > ROOM}
    assert crowded == {}


def test_a_long_file_gives_its_reason() -> None:
    long = []
    for path in FILES:
        source = path.read_text()
        if source.count("\n") > LINES and REASON not in (ast.get_docstring(ast.parse(source)) or ""):
            long.append(f"{path.relative_to(ROOT)}: {source.count(chr(10))} lines")
    assert long == []


def test_a_file_name_means_one_thing() -> None:
    rooms = defaultdict(list)
    for path in FILES:
        rooms[path.name].append(room(path))
    twice = {
        name: places
        for name, places in rooms.items()
        if len(places) > 1 and not any(set(places) <= set(mirrored) for mirrored in MIRRORED)
    }
    assert twice == {}


def test_each_room_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("__init__.py")
        if not (ast.get_docstring(ast.parse(path.read_text())) or "").strip()
    ]
    assert silent == []
