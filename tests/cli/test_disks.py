"""Full and read-only disks: a one-line error, the right exit status, and no finding lost."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvfuzz.campaign.program_files import read_program
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

ROOT = Path(__file__).parents[2]
CRASH = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
PROGRAM = render(read_program(CRASH, catalogue(ABI)))
PAGE = 4096


def hvfuzz(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in a separate process."""
    command = [sys.executable, "-m", "hvfuzz.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def mount(*arguments: str) -> None:
    """Mount something; skip the test if that is not permitted."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip("mounting needs rights that we do not have here")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A folder on a read-only file system, which even root cannot write to."""
    path = tmp_path / "sealed"
    path.mkdir()
    mount("--bind", str(path), str(path))
    try:
        mount("-o", "remount,ro,bind", str(path))
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def assert_one_line(done: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    """Assert exit status 2 and a one-line error that contains all of `parts`."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(part in done.stderr for part in ("hvfuzz: ", *parts)), done.stderr


def test_a_read_only_output_folder_is_told_at_once(sealed: Path) -> None:
    for out in (sealed, sealed / "out"):
        assert_one_line(hvfuzz("fuzz", "--runs", 10, "--out", out), str(out), "Read-only file system")


def test_other_commands_that_write_are_told_as_well(sealed: Path) -> None:
    assert_one_line(hvfuzz("abi", "--write", sealed / "ABI.md"), str(sealed / "ABI.md"), "Read-only")
    assert_one_line(hvfuzz("corpus", "add", CRASH, "--root", sealed), str(sealed), "Read-only")


def test_a_minimised_program_that_cannot_be_written_is_printed(sealed: Path) -> None:
    done = hvfuzz("minimise", CRASH, "-o", sealed / "small.hvp")
    assert_one_line(done, str(sealed / "small.hvp"))
    assert done.stdout == PROGRAM


def test_a_full_output_folder_is_told_at_once(small: Path) -> None:
    (small / "ballast").write_bytes(bytes(16 * PAGE))
    assert_one_line(hvfuzz("fuzz", "--runs", 10, "--out", small), str(small), "No space left on device")


def test_a_disk_that_fills_up_under_the_engine_ends_the_campaign(small: Path) -> None:
    pytest.importorskip("atheris")
    done = hvfuzz("fuzz", "--runs", 10, "--out", small, "--json")
    assert_one_line(done, "No space left on device")
    assert "No space left" in json.loads(done.stdout.splitlines()[-1])["error"]


def test_a_finding_that_cannot_be_saved_is_printed(small: Path) -> None:
    """The disk has room to start, but not for a program and its record."""
    arguments = ("--engine", "replay", "--corpus", CRASH, "--bug", "xsa-221", "--out", small)
    (small / "logs").mkdir()
    (small / "findings").mkdir()
    (small / "ballast").write_bytes(bytes(15 * PAGE))
    done = hvfuzz("fuzz", *arguments, "--json")
    assert done.returncode == 1, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    (finding,) = last["findings"]
    assert finding["identity"] == "host_memory/null/sched.poll"
    assert finding["file"] is None
    assert finding["text"] == PROGRAM
    assert any("No space left on device" in notice for notice in last["notices"])
    for path in small.rglob("*.*"):
        path.unlink() if path.is_file() else None
    done = hvfuzz("fuzz", *arguments)
    assert "sched.poll(" in done.stdout


@pytest.fixture
def middling(tmp_path: Path) -> Iterator[Path]:
    """A file system of 480 KiB, which holds what an engine needs to start, and some new inputs."""
    path = tmp_path / "middling"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=480k", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_that_fills_up_in_mid_run_is_no_success(middling: Path) -> None:
    """libFuzzer does not notice; it leaves files without bytes."""
    pytest.importorskip("atheris")
    done = hvfuzz("fuzz", "--runs", 250, "--seed", 1, "--out", middling, "--no-corpus")
    assert_one_line(done, "could not be written whole; is the disk full?")
    assert "failed, no findings in 250 programs" in done.stdout
    units = [path for path in (middling / "corpus" / "hypercalls").iterdir() if path.is_file()]
    assert units
    assert all(path.stat().st_size for path in units)


@pytest.fixture
def few(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for seven files and folders."""
    path = tmp_path / "few"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=10m,nr_inodes=7", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_without_inodes_all_findings_are_printed(few: Path) -> None:
    done = hvfuzz("fuzz", "--engine", "random", "--runs", 300, "--seed", 3, "--bug", "pkvm-09cce60bddd", "--out", few)
    assert done.returncode == 1, done.stderr
    found = [line.removeprefix("FINDING ") for line in done.stdout.splitlines() if line.startswith("FINDING ")]
    assert len(found) > 1
    kept = len(list(few.glob("findings/*/program.hvp")))
    assert done.stdout.count("# hvp 1\n") >= len(found) - kept > 0
    assert done.stderr == f"hvfuzz: cannot write the report: {few / 'reports'}: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_campaign_that_cannot_be_shown_ends_in_order(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hvfuzz.cli", "fuzz", "--time", "100", "--engine", "random", "--out", str(tmp_path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "hvfuzz: output: No space left on device\n")
    assert (tmp_path / "report.md").is_file()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hvfuzz.cli", "bugs", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "hvfuzz: output: No space left on device\n"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device like /dev/full."""
    path = tmp_path / "full"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("devices need rights that we do not have here")
    return path


def test_output_goes_into_a_device_and_does_not_replace_it(device: Path) -> None:
    for arguments in (
        ("abi", "--write", device),
        ("minimise", CRASH, "-o", device),
        ("walk", CRASH, "--op", 0, "--gva", "0x40000", "--svg", device),
    ):
        assert_one_line(hvfuzz(*arguments), str(device), "No space left on device")
        assert stat.S_ISCHR(device.stat().st_mode), arguments


def test_output_goes_through_a_link_which_stays(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    for _ in range(2):  # the target is missing, then there
        assert hvfuzz("abi", "--write", link).returncode == 0
        assert link.is_symlink()
        assert target.read_text() == (ROOT / "ABI.md").read_text()
    done = hvfuzz("abi", "--write", "/dev/stdout")
    assert (done.returncode, done.stdout) == (0, target.read_text())


def test_a_loop_of_links_is_told(tmp_path: Path) -> None:
    loop, other = tmp_path / "loop", tmp_path / "other"
    loop.symlink_to(other)
    other.symlink_to(loop)
    assert_one_line(hvfuzz("fuzz", "--runs", 5, "--out", loop), str(loop), "File exists")
    for arguments in (("abi", "--write", loop), ("minimise", CRASH, "-o", loop)):
        assert_one_line(hvfuzz(*arguments), str(loop), "Too many levels of symbolic links")
        assert loop.is_symlink()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_error_that_cannot_be_told_keeps_its_status(tmp_path: Path) -> None:
    """A traceback would have status 1, which means a finding."""
    harness = ROOT / "harnesses" / "fuzz_dma.py"
    for command in (
        ("-m", "hvfuzz.cli", "repro", tmp_path / "nothing"),
        ("-m", "hvfuzz.cli", "fuzz", "--runs", "x"),
        (harness, tmp_path / "nothing"),
    ):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([sys.executable, *map(str, command)], stderr=full, cwd=ROOT, check=False)
        assert done.returncode == 2, command


def test_too_little_memory_is_neither_a_finding_nor_our_error(tmp_path: Path) -> None:
    """A machine without room for a second emulated memory: an error of this machine, with a bug planted and without."""
    crash = tmp_path / "bare.hvp"
    crash.write_text("# hvp 1\nworld bare\nevent.alloc(dom0, remote=dom0)\n")
    script = (
        "import mmap, sys\n"
        "def full(*_arguments, **_flags): raise OSError(12, 'Cannot allocate memory')\n"
        "from hvfuzz.machine import physical_memory\n"
        "from hvfuzz.targets.emulated.emulated_target import EmulatedTarget\n"
        "from hvfuzz.bugs import find_bug\n"
        "from hvfuzz.guest.format.text import parse\n"
        "physical_memory.mmap.mmap = full\n"
        "for bug in (None, find_bug('xsa-100')):\n"
        "    target = EmulatedTarget(bug)\n"
        "    try: target.run(parse(open(sys.argv[1]).read(), target.catalogue))\n"
        "    except OSError as error: print(error.filename)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(crash)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.stdout, done.stderr) == ("16,384 KiB of emulated memory\n" * 2, "")
