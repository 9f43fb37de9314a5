"""What is written for people agrees with the code."""

import re
from pathlib import Path

import pytest

from hvfuzz.abi.manual.document import render
from hvfuzz.bugs import known_bugs
from hvfuzz.campaign.program_files import read_program
from hvfuzz.cli import COMMANDS
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.oracles.framework.all_oracles import NAMES
from hvfuzz.targets.harness import HARNESSES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def test_abi_md_is_up_to_date() -> None:
    assert (ROOT / "ABI.md").read_text() == render(ABI), "run: hvfuzz abi --write ABI.md"


def test_the_programs_in_the_readme_are_programs() -> None:
    ops = catalogue(ABI)
    blocks = re.findall(r"(?:^    .*\n)+", README, re.MULTILINE)
    programs = [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks if "# hvp 1" in block]
    assert programs
    for program in programs:
        assert parse(program, ops).ops


@pytest.mark.parametrize("name", [*COMMANDS, *HARNESSES, *NAMES])
def test_the_readme_names_every(name: str) -> None:
    assert name in README


def test_the_readme_names_only_what_exists() -> None:
    for command in re.findall(r"`(?:\.venv/bin/)?hvfuzz ([a-z]+)", README):
        assert command in COMMANDS
    for bug in re.findall(r"--bug ([a-z0-9-]+)(?!\w*\.py)", README):
        assert bug in known_bugs() or "my" in bug
    for path in re.findall(r"\]\(([A-Z]+\.md)\)", README):
        assert (ROOT / path).is_file()


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    lines = ARCHITECTURE.split("    hvfuzz/\n")[1].split("    harnesses/")[0].splitlines()
    drawn, way = set(), []
    for line in filter(str.strip, lines):
        depth = (len(line) - len(line.lstrip())) // 2 - 3
        names = re.match(r"\s*((?:\w+/ ?)+)", line)
        assert names is not None, line
        for name in names.group(1).split():
            way = [*way[:depth], name.rstrip("/")]
            drawn.add("/".join(way))
    folders = {str(path.parent.relative_to(ROOT / "hvfuzz")) for path in (ROOT / "hvfuzz").rglob("__init__.py")}
    assert drawn == folders - {"."}


def test_every_file_that_the_architecture_names_exists() -> None:
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", ARCHITECTURE):
        assert (ROOT / name).is_file() or (ROOT / "hvfuzz" / name).is_file(), name


def test_each_harness_has_a_file_and_seeds() -> None:
    ops = catalogue(ABI)
    for name in HARNESSES:
        assert (ROOT / "harnesses" / f"fuzz_{name}.py").is_file()
        seeds = sorted((ROOT / "corpus" / name).glob("*.hvp"))
        assert seeds
        assert all(read_program(seed, ops).ops for seed in seeds)
    assert sum(1 for _ in (ROOT / "corpus").glob("*/*.hvp")) >= 30
