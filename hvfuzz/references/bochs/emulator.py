"""Debian's Bochs as a process: assembles a stub, boots it from a disk image, and gives back what it wrote there."""

import os
import pty
import select
import subprocess
import time
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hvfuzz.references.bochs.disk import MEMORY, SECTOR, STUB_DEFINES, UNWRITTEN
from hvfuzz.references.reference import ReferenceError, find_program

INSTALLATION: Final = "apt-get install bochs bochsbios vgabios bochs-term nasm"
CPU: Final = "corei7_skylake_x"
"""A Bochs processor with all features of our model, and without CET, which would change several of them."""
_BIOS: Final = {"/usr/share/bochs/BIOS-bochs-latest": "bochsbios", "/usr/share/bochs/VGABIOS-lgpl-latest": "vgabios"}
_HEADS: Final = 16
_SECTORS_PER_TRACK: Final = 63
# The display library "term" needs neither a screen nor a port, only a terminal. Without clock synchronisation Bochs
# runs as fast as it can. Bochs logs each EPT violation as an error, so errors are ignored. An unknown MSR is #GP(0).
_CONFIGURATION: Final = """
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=0, iodebug=1, usb_uhci=0, e1000=0, sb16=0
display_library: term
megs: {megabytes}
cpu: model={cpu}, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=0
romimage: file={bios}
vgaromimage: file={vgabios}
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path="{disk}", mode=flat, cylinders={cylinders}, heads={heads}, spt={spt}
boot: disk
clock: sync=none
log: "{log}"
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
sound: driver=dummy
"""


@cache
def assembled(package: str, source: str, **defines: int) -> bytes:
    """The flat binary of `source`, a file in the folder assembly of a package; `defines` are its constants.

    It may include the files in the folder assembly of this package. Raises ReferenceError if nasm is not installed.
    """
    nasm = find_program("nasm", "nasm")
    with (
        as_file(files(package) / "assembly") as folder,
        as_file(files(__package__) / "assembly") as shared,
        TemporaryDirectory(prefix="hvfuzz-") as scratch,
    ):
        output = Path(scratch) / "flat.bin"
        values = [f"-D{name}={value:#x}" for name, value in (STUB_DEFINES | defines).items()]
        command = [nasm, "-f", "bin", "-Wall", "-Werror", *values, "-I", f"{shared}/", "-o", str(output)]
        done = subprocess.run([*command, str(folder / source)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReferenceError(f"nasm failed to assemble {source}: {done.stderr.strip().splitlines()[-1]}")
        return output.read_bytes()


def version() -> str:
    """Name and version of the installed Bochs. Raises ReferenceError if it is not installed."""
    bochs = find_program("bochs", "bochs")
    text = subprocess.run([bochs, "--help"], capture_output=True, text=True, check=False)
    for line in (text.stderr + text.stdout).splitlines():
        if "Bochs x86 Emulator" in line:
            return line.strip()
    return "Bochs, unknown version"


def run(disk: bytes, results: int, timeout: float) -> bytes:
    """Boot from `disk`; returns the contents of the disk from sector `results` when Bochs has ended.

    Raises ReferenceError if a program or file is not installed, or if Bochs dies or takes more than `timeout` seconds.
    The process and all its files are removed in any case.
    """
    bochs = find_program("bochs", "bochs")
    for path, package in _BIOS.items():
        if not Path(path).exists():
            raise ReferenceError(f"{path} is not installed: apt-get install {package}")
    with TemporaryDirectory(prefix="hvfuzz-") as scratch:
        folder = Path(scratch)
        image, log = folder / "disk.img", folder / "log"
        cylinders = -(-len(disk) // (_HEADS * _SECTORS_PER_TRACK * SECTOR))
        image.write_bytes(disk)
        os.truncate(image, cylinders * _HEADS * _SECTORS_PER_TRACK * SECTOR)
        bios, vgabios = _BIOS
        (folder / "configuration").write_text(
            _CONFIGURATION.format(
                megabytes=MEMORY >> 20,
                cpu=CPU,
                bios=bios,
                vgabios=vgabios,
                disk=image,
                cylinders=cylinders,
                heads=_HEADS,
                spt=_SECTORS_PER_TRACK,
                log=log,
            )
        )
        (folder / "debugger").write_text("continue\nquit\n")
        status = _wait([bochs, "-q", "-f", "configuration", "-rc", "debugger"], folder, timeout)
        with image.open("rb") as written:
            written.seek(results * SECTOR)
            data = written.read(len(disk) - results * SECTOR)
        if data[: len(UNWRITTEN)] == UNWRITTEN:
            last = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
            raise ReferenceError(f"bochs ended ({status}) without results: {last[-1] if last else 'its log is empty'}")
        return data


def _wait(command: list[str], folder: Path, timeout: float) -> int:
    """Run Bochs on a new pseudo-terminal, whose output is discarded; returns its exit status."""
    deadline = time.monotonic() + timeout
    ours, its = pty.openpty()
    try:
        process = subprocess.Popen(
            command,
            stdin=its,
            stdout=its,
            stderr=its,
            cwd=folder,
            env=os.environ | {"TERM": "xterm"},
            start_new_session=True,
        )
    except OSError as failure:
        os.close(ours)
        raise ReferenceError(f"bochs does not start: {failure}") from failure
    finally:
        os.close(its)
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise ReferenceError(f"bochs did not end within {timeout:.0f} s")
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    os.read(ours, 1 << 16)
                except OSError:  # Bochs has closed the terminal
                    process.wait(max(0.0, deadline - time.monotonic()))
        return process.returncode
    except subprocess.TimeoutExpired:
        raise ReferenceError(f"bochs did not end within {timeout:.0f} s") from None
    finally:
        process.kill()
        process.wait()
        os.close(ours)
