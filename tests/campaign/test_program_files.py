"""Reading program files: valid ones are accepted, others give a one-line error."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.campaign.program_files import MAX_FILE, ProgramFileError, read_program, read_seed
from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import MAX_OPS
from hvfuzz.hypervisor.hypercalls import ABI

CATALOGUE = catalogue(ABI)
GOOD = "# hvp 1\nworld pair\nsched.yield(dom1)\n"

BAD = {
    "empty": (b"", "the file is empty"),
    "truncated": (b"# hvp 1\nworld pair\nsched.kick(dom1, vcpu=", "line 3, column"),
    "not UTF-8": (b"# hvp 1\nworld pair\n\xff\xfe\n", "line 3: byte 0xff is not UTF-8"),
    "UTF-16": ("# hvp 1\nworld pair\n".encode("utf-16"), "text in UTF-16; save it as UTF-8"),
    "another format": (b"\x7fELF" + bytes(range(256)) * 4, "not a program"),
    "no magic": (b"world pair\nsched.yield(dom1)\n", "not a program"),
    "unknown version": (b"# hvp 2\nworld pair\n", "line 1"),
    "unknown op": (b"# hvp 1\nworld pair\nsched.yeld(dom1)\n", "did you mean 'sched.yield'"),
    "unknown field": (b"# hvp 1\nworld pair\nsched.kick(dom1, vcp=1)\n", "did you mean 'vcpu'"),
    "unknown world": (b"# hvp 1\nworld par\n", "did you mean 'pair'"),
    "unknown domain": (b"# hvp 1\nworld pair\nsched.yield(dom7)\n", "line 3"),
    "too wide": (b"# hvp 1\nworld pair\nsched.kick(dom1, vcpu=0x100000000)\n", "line 3"),
}


def test_text_and_bytes_are_both_read(tmp_path: Path) -> None:
    program = parse(GOOD, CATALOGUE)
    (tmp_path / "text").write_text(GOOD)
    (tmp_path / "bytes").write_bytes(encode(program, CATALOGUE))
    assert read_program(tmp_path / "text", CATALOGUE) == program
    assert read_program(tmp_path / "bytes", CATALOGUE) == program


def test_text_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    marked = tmp_path / "marked.hvp"
    marked.write_text(GOOD, encoding="utf-8-sig")
    assert read_program(marked, CATALOGUE) == parse(GOOD, CATALOGUE)
    assert decode(read_seed(marked, CATALOGUE), CATALOGUE) == parse(GOOD, CATALOGUE)


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=list(BAD))
def test_what_is_no_program_gets_one_clear_line(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.hvp"
    path.write_bytes(data)
    for read in (read_program, read_seed):
        with pytest.raises(ProgramFileError) as raised:
            read(path, CATALOGUE)
        assert message in str(raised.value)
        assert str(raised.value).startswith(str(path))
        assert "\n" not in str(raised.value)


def test_bytes_beyond_the_last_op_are_not_ignored(tmp_path: Path) -> None:
    """The decoder ignores them, as an engine needs; a file that a person names would lose its end without a word."""
    data = encode(parse(GOOD, CATALOGUE), CATALOGUE)
    path = tmp_path / "long"
    path.write_bytes(data[:1] + data[1:] * (MAX_OPS + 1))
    with pytest.raises(ProgramFileError, match=f"it has more than {MAX_OPS} ops"):
        read_program(path, CATALOGUE)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(ProgramFileError, match=f"104857600 bytes, but at most {MAX_FILE} are allowed"):
        read_program(path, CATALOGUE)


def test_a_file_without_end_is_not_read_for_ever() -> None:
    with pytest.raises(ProgramFileError, match="more than"):
        read_program(Path("/dev/zero"), CATALOGUE)


@pytest.mark.parametrize(("name", "message"), [("", "is a folder"), ("nothing", "No such file")])
def test_what_is_no_file(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramFileError, match=message):
        read_program(tmp_path / name, CATALOGUE)


def test_a_seed_may_be_any_bytes(tmp_path: Path, text: Callable[..., str]) -> None:
    path = tmp_path / "unit"
    path.write_bytes(b"\x07anything")
    assert read_seed(path, CATALOGUE) == b"\x07anything"
