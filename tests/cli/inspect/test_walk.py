"""The command `hvfuzz walk`."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvfuzz.abi.boot import DIRECT_MAP

Run = Callable[..., Any]
PROGRAM = """\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x40000, size=8)
pte(dom1, gva=DIRECT+0x41000, level=1, entry=0)
invlpg(dom1, gva=DIRECT+0x41000)
load(dom2.1, gva=DIRECT+0x40000, size=8)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.hvp"
    path.write_text(PROGRAM)
    return path


def test_a_walk_in_words_and_as_a_picture(run: Run, program: Path, tmp_path: Path) -> None:
    done = run("walk", program, "--op", 0, "--gva", "DIRECT+0x41008", "--cold", "--svg", tmp_path / "walk.svg")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].startswith(f"gva {DIRECT_MAP + 0x41008:#x}, supervisor read by dom1.0, before op 0: load(dom1")
    assert [line.split()[0] for line in lines if line[:3] == "  P" or line[:6] == "  page"] == [
        "PML4E",
        "PDPTE",
        "PDE",
        "PTE",
        "page",
    ]
    assert sum("EPT" in line for line in lines) == 20
    assert lines[-1].endswith("(24 table references, 0 cache hits)")
    picture = ElementTree.parse(tmp_path / "walk.svg").getroot()
    boxes = [each for each in picture.iter("{http://www.w3.org/2000/svg}rect") if each.get("rx")]
    assert len(boxes) == 20 + 5 + 4
    assert f"{DIRECT_MAP + 0x41008:#x}" in (tmp_path / "walk.svg").read_text()


def test_the_program_has_run_so_far_and_no_further(run: Run, program: Path) -> None:
    ends = [run("walk", program, "--op", op, "--gva", "DIRECT+0x41000").status for op in range(3)]
    assert ends == [0, 0, 1]
    failed = run("walk", program, "--op", 2, "--gva", "DIRECT+0x41000")
    assert f"= the guest gets #PF(0x0) at {DIRECT_MAP + 0x41000:#x}" in failed.out
    # The caches are as the program left them.
    warm = json.loads(run("walk", program, "--op", 1, "--gva", "DIRECT+0x40000", "--json").out)
    assert (warm["hit"], warm["table_references"], warm["who"]) == (True, 0, "dom1.0")
    other = json.loads(run("walk", program, "--op", 3, "--gva", "DIRECT+0x40000", "--json").out)
    assert (other["hit"], other["who"]) == (False, "dom2.1")
    assert other["table_references"] == sum(
        len(leg["references"]) + (leg["entry"] is not None) for leg in other["legs"]
    )
    named = json.loads(run("walk", program, "--op", 3, "--gva", "DIRECT+0x40000", "--vcpu", "dom1", "--json").out)
    assert (named["who"], named["hit"]) == ("dom1.0", True)


def test_user_mode_is_refused_what_is_the_kernels(run: Run, program: Path) -> None:
    done = run("walk", program, "--op", 0, "--gva", "DIRECT+0x40000", "--user", "--access", "w", "--cold")
    assert done.status == 1
    assert "the guest gets #PF(0x7)" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--op", 4, "--gva", 0), "no op 4: the ops of {file} are 0 to 3"),
        (("--op", -1, "--gva", 0), "invalid value for '--op'"),
        (("--op", 0, "--gva", "0x800000000000"), "0x800000000000 is not canonical"),
        (("--op", 0, "--gva", 1 << 64), f"{1 << 64} is not a 64-bit address"),
        (("--op", 0, "--gva", "INDIRECT+4"), "'INDIRECT+4' is not an address"),
        (("--op", 0, "--gva", 0, "--vcpu", "dom9"), "no vCPU dom9.0 in this world"),
        (("--op", 0, "--gva", 0, "--vcpu", "me"), "'me' is not a vCPU (example: dom1.0)"),
        (("--op", 0, "--gva", 0, "--access", "rw"), "'rw' is not one of 'r', 'w', 'x'"),
        (("--op", 0, "--gva", 0, "--svg", "/nowhere/walk.svg"), "/nowhere/walk.svg: No such file or directory"),
    ],
)
def test_bad_input(run: Run, program: Path, arguments: tuple[object, ...], message: str) -> None:
    done = run("walk", program, *arguments)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert message.format(file=program) in line


def test_a_file_that_is_no_program(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nothing.hvp"
    path.write_text("# hvp 1\nworld nowhere\n")
    done = run("walk", path, "--op", 0, "--gva", 0)
    assert (done.status, len(done.err.splitlines())) == (2, 1)


def test_the_way_of_a_physical_address_and_of_one_that_a_device_uses(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "dma.hvp"
    program.write_text(
        "# hvp 1\nworld pair\ndevice.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R)\n"
        "device.dma_submit(dom1, device=0, from=0x1000, to=0x1000, length=8)\n"
    )
    by_cpu = json.loads(run("walk", program, "--gpa", "0x40123", "--json").out)
    by_device = json.loads(run("walk", program, "--iova", "0x1123", "--json").out)
    assert by_cpu["hpa"] == by_device["hpa"]
    assert [len(each["entries"]) for each in (by_cpu, by_device)] == [4, 3]
    early = run("walk", program, "--op", 0, "--iova", "0x1123")
    assert early.status == 1
    assert early.out.splitlines()[-1] == "= not mapped"
    assert run("walk", program, "--gpa", "0x40000", "--svg", tmp_path / "way.svg").status == 0
    assert "gpa 0x40000 of dom1" in ElementTree.parse(tmp_path / "way.svg").getroot().get("aria-label", "")


def test_what_stands_in_a_cache_is_shown_beside_what_the_tables_say(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "stale.hvp"
    program.write_text(
        "# hvp 1\n# bug: xsa-78\nworld pair\ndevice.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)\n"
        "device.dma_submit(dom1, device=0, from=0, to=0x1000, length=8)\ndevice.dma_unmap(dom1, iova=0, count=1)\n"
    )
    lines = run("walk", program, "--iova", "0").out.splitlines()
    assert lines[-2].startswith("  but the IOTLB: frame 0x")
    assert lines[-3].endswith("not present")
    assert "but" not in run("walk", program, "--iova", "0", "--bug", "none").out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--gva", "0", "--gpa", "0"),
        ("--gpa", "zero"),
        ("--gpa", "0", "--device", 1),
        ("--iova", "0", "--device", 99),
    ],
)
def test_one_address_is_asked_for(run: Run, program: Path, arguments: tuple[object, ...]) -> None:
    assert run("walk", program, *arguments).status == 2
