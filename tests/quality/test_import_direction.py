"""A file imports only from its own layer and those above it: the architecture as a test."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = (
    "machine",
    "references",
    "abi",
    "guest",
    "hypervisor",
    "oracles",
    "bugs",
    "targets",
    "explain",
    "engines",
    "campaign",
    "cli",
)
#: (whose files, what they must not import), beyond the order of the layers.
FORBIDDEN = (
    ("hvfuzz/hypervisor/", "hvfuzz.guest"),
    ("hvfuzz/machine/", "hvfuzz.guest"),
    ("hvfuzz/abi/", "hvfuzz.references"),
    ("hvfuzz/oracles/contract/spec/", "hvfuzz.hypervisor"),
    ("hvfuzz/references/ept/manual/", "hvfuzz.machine"),
    ("hvfuzz/references/vtd/manual/", "hvfuzz.machine"),
)
#: Heavy packages, and the only file of hvfuzz/ that may import each.
ONLY_IN = {
    "atheris": "hvfuzz/engines/atheris.py",
    "hypothesis": "hvfuzz/engines/hypothesis.py",
    "unicorn": "hvfuzz/references/stage1/unicorn.py",
}


def imports(source: str, package: str) -> Iterator[str]:
    """The dotted names that `source`, a module of `package`, imports; relative ones made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def faults(path: str, source: str) -> list[str]:
    """What `source`, to stand at `path` under the repository's root, imports against the rules."""
    package = ".".join(Path(path).parts[:-1])
    found = []
    for name in imports(source, package):
        top = name.split(".")[0]
        if top in ONLY_IN and path != ONLY_IN[top]:
            found.append(f"{path} imports {top}")
        for prefix, banned in FORBIDDEN:
            if path.startswith(prefix) and (name == banned or name.startswith(banned + ".")):
                found.append(f"{path} imports {name}")
        parts, target = Path(path).parts, name.split(".")
        if len(parts) > 2 and target[0] == "hvfuzz" and len(target) > 1 and target[1] in LAYERS:
            if parts[1] not in LAYERS:
                found.append(f"{path} is in no layer")
            elif LAYERS.index(target[1]) > LAYERS.index(parts[1]):
                found.append(f"{path} imports {name}, from a layer below its own")
    return found


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "hvfuzz").rglob("*.py")))
def test_file_imports_only_what_its_layer_may(path: str) -> None:
    assert faults(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hvfuzz/machine/cpu/vcpu.py", "from hvfuzz.hypervisor.memory.frames import FrameTable"),
        ("hvfuzz/machine/cpu/vcpu.py", "import hvfuzz.guest.program.ops"),
        ("hvfuzz/machine/cpu/vcpu.py", "from ...abi import kinds"),
        ("hvfuzz/hypervisor/memory/guest_access.py", "from hvfuzz.guest.program.program import Op"),
        ("hvfuzz/oracles/contract/spec/calls/grant.py", "from hvfuzz.hypervisor.core import domains"),
        ("hvfuzz/references/vtd/manual/iotlb.py", "from hvfuzz.machine.vtd.iommu import Iommu"),
        ("hvfuzz/engines/random.py", "import atheris"),
        ("hvfuzz/guest/generate/generation.py", "from hypothesis import strategies"),
        ("hvfuzz/targets/emulated_target.py", "from hvfuzz.cli import main"),
    ],
)
def test_the_rule_sees_a_breach(path: str, source: str) -> None:
    assert faults(path, source)


def test_the_package_itself_imports_nothing_heavy() -> None:
    assert list(imports((ROOT / "hvfuzz/__init__.py").read_text(), "hvfuzz")) == []


def test_only_dispatch_applies_steps() -> None:
    calls = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "hvfuzz").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node).endswith(".apply(hv)")
    ]
    assert set(calls) == {"hvfuzz/hypervisor/core/dispatch.py"}
