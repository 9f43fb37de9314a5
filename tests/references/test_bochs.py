"""Bochs as a process: it leaves no files and no processes; and the disk that it boots from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.references.bochs import disk, emulator
from hvfuzz.references.bochs.disk import SECTOR, UNWRITTEN, encode_batch
from hvfuzz.references.reference import ReferenceError

DISK = bytes(2 * SECTOR - len(UNWRITTEN)) + UNWRITTEN


@pytest.mark.parametrize(("name", "room"), [("RESULTS", disk.CASES), ("REGION", disk.RESULTS)])
def test_a_batch_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, room: int) -> None:
    monkeypatch.setattr(disk, name, room + 4096)
    encode_batch(b"stub", b"tables", [(1, 2)], [bytes(160)], 160)
    with pytest.raises(ValueError, match="too many"):
        encode_batch(b"stub", b"tables", [(1, 2)], [bytes(160)] * 30, 160 * 30)


def test_the_stub_is_small() -> None:
    with pytest.raises(ValueError, match="the stub has 16385 bytes"):
        encode_batch(bytes(16385), b"tables", [], [], 0)


@pytest.fixture
def fake_bochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """fake_bochs(script) installs a shell script as `bochs`; returns the folder of its temporary files."""
    programs, scratch = tmp_path / "programs", tmp_path / "scratch"
    programs.mkdir()
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("PATH", f"{programs}:/bin")
    monkeypatch.setattr(emulator, "_BIOS", dict.fromkeys((str(programs), str(scratch)), "bochsbios"))

    def install(script: str) -> Path:
        path = programs / "bochs"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return scratch

    return install


def is_gone(pid: Path) -> bool:
    """Whether the process has ended."""
    return not Path(f"/proc/{int(pid.read_text())}").exists()


def links_to(link: Path, folder: Path) -> bool:
    """Whether the process with this link works below `folder`."""
    try:
        return link.readlink().is_relative_to(folder)
    except OSError:
        return False


def test_the_disk_goes_in_and_comes_out(fake_bochs: Callable[[str], Path]) -> None:
    scratch = fake_bochs("printf RESULTS. | dd of=disk.img bs=512 seek=1 conv=notrunc; test -t 0")
    assert emulator.run(DISK, 1, 60) == b"RESULTS." + DISK[SECTOR + 8 :]
    assert list(scratch.iterdir()) == []


def test_a_bochs_that_dies_gives_an_error_of_one_line(fake_bochs: Callable[[str], Path]) -> None:
    scratch = fake_bochs("echo noise; echo '00000p[CPU0 ] >>PANIC<< exception(): 3rd (13)' > log; exit 3")
    with pytest.raises(ReferenceError, match=r"^bochs ended \(3\) without results: 0.*3rd \(13\)$"):
        emulator.run(DISK[:SECTOR] + UNWRITTEN, 1, 60)
    assert list(scratch.iterdir()) == []


def test_a_bochs_that_hangs_is_ended(fake_bochs: Callable[[str], Path], tmp_path: Path) -> None:
    scratch = fake_bochs("exec sleep 6000")
    with pytest.raises(ReferenceError, match=r"^bochs did not end within 1 s$"):
        emulator.run(DISK, 1, 1.0)
    assert not [each for each in Path("/proc").glob("[0-9]*/cwd") if links_to(each, scratch)]
    assert list(scratch.iterdir()) == []


def test_a_bochs_that_is_interrupted_is_ended(
    fake_bochs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = fake_bochs(f"echo $$ > {tmp_path}/pid; echo ready; exec sleep 60")

    def interrupted(*_arguments: object) -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(emulator.select, "select", interrupted)
    with pytest.raises(KeyboardInterrupt):
        emulator.run(DISK, 1, 60)
    assert is_gone(tmp_path / "pid")
    assert list(scratch.iterdir()) == []


def test_a_missing_program_or_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    emulator.assembled.cache_clear()
    for missing in (
        lambda: emulator.run(DISK, 1, 60),
        emulator.version,
        lambda: emulator.assembled("hvfuzz.references.ept", "stub.asm"),
    ):
        with pytest.raises(ReferenceError, match=r"^(bochs|nasm) is not installed: apt-get install \1$"):
            missing()
    (tmp_path / "bochs").write_text("#!/bin/sh\n")
    (tmp_path / "bochs").chmod(0o755)
    monkeypatch.setattr(emulator, "_BIOS", {str(tmp_path / "bios"): "bochsbios"})
    with pytest.raises(ReferenceError, match=r"bios is not installed: apt-get install bochsbios$"):
        emulator.run(DISK, 1, 60)
