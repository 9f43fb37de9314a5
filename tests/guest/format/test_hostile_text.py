"""Program text from other systems, and from people who mean no good."""

import pytest

from hvfuzz.guest.format.binary import decode
from hvfuzz.guest.format.text import TextError, parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

CATALOGUE = catalogue(ABI)


@pytest.mark.parametrize("start", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \f\v\t\n"])
def test_a_byte_order_mark_and_the_line_ends_of_other_systems_are_no_part_of_a_program(start: str, end: str) -> None:
    text = "# hvp 1\nworld pair\nr0 = event.alloc(dom0, remote=dom1)\nevent.close(dom0, port=r0)\n"
    same = start + text.replace("\n", end)
    assert parse(same, CATALOGUE) == parse(text, CATALOGUE)
    assert decode(same.encode(), CATALOGUE) == parse(text, CATALOGUE)


LINE = "load(dom1, gva={}, size=8)"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE.format("٣"), "gva: expected a number, found '٣'"),
        (LINE.format("0x\uff11"), "found '0x\uff11'"),
        ("r٣ = event.alloc(dom0, remote=dom1)", "unknown op 'r٣'"),
        ("race \u0661: pause(dom1)", "expected a fetch number"),
        (LINE.format("1" * 100_000), f"gva: expected a number, found '{'1' * 40}...'"),
        (LINE.format("0x" + "f" * 100_000), f"gva: 0x{'f' * 38}... does not fit in 64 bits"),
        (LINE.format("r" + "1" * 100_000), f"no op has the label r{'1' * 39}..."),
        ("x" * 100_000, f"unknown op '{'x' * 40}...'"),
        ("load(dom1, " + "y" * 100_000 + "=1)", f"unknown field of load '{'y' * 40}...'"),
        ("load(dom1,\u00a0gva=1, size=8)", "found '\u00a0'"),
        ("load(dom1\0, gva=1)", "expected ')', found '\0'"),
        ("load(dom1, gva=\ufffe)", "found '\ufffe'"),
        ("load(dom1, gva=[[[[[[[[1]]]]]]]])", "expected a number, found '['"),
    ],
)
def test_a_hostile_line_has_one_short_message(line: str, message: str) -> None:
    with pytest.raises(TextError) as error:
        parse(f"# hvp 1\nworld pair\n{line}\n", CATALOGUE)
    assert message in str(error.value)
    assert len(str(error.value)) < 600
