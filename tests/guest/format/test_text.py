"""The text form expresses every program, and its errors say what was expected, what was found, and where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.guest.format.scanner import TextError
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.ops import Catalogue, catalogue
from hvfuzz.guest.program.program import MAX_OPS, Actor, Mangle, Op, Point, Program, Race, Ref
from hvfuzz.hypervisor.hypercalls import ABI

EXAMPLE = """\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
r1 = grant.map(dom2, granter=dom1, ref=r0, gfn=0x100, iova=0, flags=HOST|READONLY)
store(dom1.1, gva=DIRECT+0x10400, size=8, value=0xff)
r3 = event.alloc(dom1, remote=SELF)
race 1: store(dom1.1, gva=DIRECT+0x10008, size=4, value=r3)
sched.poll(dom1, ports=[r3, 7], count=2, timeout=0) !size=40 !version=9 !pointer=HOLE+0x1000
multicall(dom1, count=2)
  sched.yield(dom1)
  grant.revoke(dom1, ref=r0)
device.dma_batch(dom1, ring=[1, 0x3000, 0x4000, 64], length=8)
device.dma_batch(dom1, ring=DIRECT+0x10ff8, length=8)
blob(dom1, number=grant.create, words=[0x20000, 0xffffffffffffffff, r3])
rdmsr(dom2, index=EFER)
memory.populate(dom1, first=0x200, count=1, flags=TOP_DOWN)
memory.populate(dom1, first=0x200, count=0x186a0)
"""


def test_the_example_reads_as_it_is_written(own: Catalogue) -> None:
    program = parse(EXAMPLE, own)
    assert render(program) == EXAMPLE
    by_name = own.by_name
    assert program.world == 0
    assert program.ops[1] == Op(by_name["grant.map"], Actor(2, 0), (1, Ref(0), 0x100, 0, 5))
    race = Race(1, Op(by_name["store"], Actor(1, 1), (0xFFFF_8800_0001_0008, 4, Ref(3))))
    mangle = Mangle(size=40, version=9, pointer=0xFFFF_8000_0000_1000)
    assert program.ops[4] == Op(by_name["sched.poll"], Actor(1, 0), ((Ref(3), 7), 2, 0), mangle, race)
    assert program.ops[5].values == (0, 2)
    assert program.ops[9].values == (0xFFFF_8800_0001_0FF8, 8)


def test_a_race_says_in_words_where_it_acts() -> None:
    lines = (
        "race 1: pause(dom1.1)",
        "race before write 3: load(dom2, gva=DIRECT+0x60000, size=8)",
        "race at step 0: dma(dom1, device=0)",
    )
    op = "memory.protect(dom1, first=0x40, count=200, rights=R)"
    text = "# hvp 1\nworld pair\n" + "".join(f"{line}\n{op}\n" for line in lines)
    real = catalogue(ABI)
    program = parse(text, real)
    assert [op.race and op.race[::2] for op in program.ops] == [(1, Point.FETCH), (3, Point.WRITE), (0, Point.STEP)]
    assert render(program) == text
    assert parse(text.replace("race 1", "race before fetch 1"), real) == program


@given(data=st.data())
def test_text_keeps_the_program(data: st.DataObject, known: Catalogue, programs: st.SearchStrategy[Program]) -> None:
    program = data.draw(programs)
    text = render(program)
    assert parse(text, known) == program
    assert render(parse(text, known)) == text


@given(text=st.text(max_size=200))
def test_any_text_is_a_program_or_an_error_with_a_place(text: str, own: Catalogue) -> None:
    places = []
    for lead in ("", "# hvp 1\n", "# hvp 1\nworld pair\n", "# hvp 1\nworld pair\ngrant.create(dom1, "):
        try:
            parse(lead + text, own)
        except TextError as error:
            places.append((error.line, error.column, (lead + text).count("\n") + 1))
    assert all(1 <= line <= lines and column >= 1 for line, column, lines in places)


def test_numbers_symbols_comments_and_gaps_are_read_as_people_write_them(own: Catalogue) -> None:
    program = parse(
        """# hvp 1
# A comment.

world pair   # and another

   r7=grant.create( dom1.0 ,gfn = 0b1000000 ,to=2, rights=3 )
grant.revoke(dom1, ref=r7)
grant.map(dom2, flags=HOST|0x40, gfn=-1, granter=dom1, ref=r7)
memory.exchange(dom1, gfns=[], count=1_000)
multicall(dom1, entries=0xffff880000010400, count=3)
""",
        own,
    )
    by_name = own.by_name
    assert program.ops == (
        Op(by_name["grant.create"], Actor(1, 0), (0x40, 2, 3)),
        Op(by_name["grant.revoke"], Actor(1, 0), (Ref(0),)),
        Op(by_name["grant.map"], Actor(2, 0), (1, Ref(0), 2**64 - 1, 0, 0x41)),
        Op(by_name["memory.exchange"], Actor(1, 0), ((), 1000)),
        Op(by_name["multicall"], Actor(1, 0), (0xFFFF_8800_0001_0400, 3)),
    )


def test_a_field_that_is_left_out_is_zero_or_empty(own: Catalogue) -> None:
    program = parse("# hvp 1\nworld old\nsched.poll(dom2)\ngrant.create(dom1)\n", own)
    assert [op.values for op in program.ops] == [((), 0, 0), (0, 0, 0)]


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ("", 2, "expected 'world <name>', found the end of the program"),
        ("hlt(dom1)", 2, "expected 'world <name>', found 'h'"),
        ("world pears", 2, "unknown world 'pears' - did you mean 'pair'?"),
        ("world", 2, "unknown world '': expected pair, old, devices, bare, virtio, reserved"),
        ("world pair bare", 2, "expected the end of the line, found 'b'"),
        ("world pair\ngrant.crate(dom1)", 3, "unknown op 'grant.crate' - did you mean 'grant.create'?"),
        ("world pair\n\n17", 4, "expected the name of an op, found '1'"),
        ("world pair\ngrant.create dom1", 3, "expected '(', found 'd'"),
        ("world pair\ngrant.create()", 3, "expected an actor, such as dom1 or dom1.0, found ')'"),
        ("world pair\ngrant.create(dom3)", 3, "world pair has no dom3"),
        ("world pair\ngrant.create(dom0.1)", 3, "dom0 of world pair has no vCPU 1"),
        ("world pair\ngrant.create(dom1, gnf=1)", 3, "unknown field of grant.create 'gnf' - did you mean 'gfn'?"),
        ("world pair\ngrant.create(dom1, x=1)", 3, "unknown field of grant.create 'x': expected gfn, to, rights"),
        ("world pair\ngrant.create(dom1, gfn=1, gfn=2)", 3, "'gfn' is given twice"),
        ("world pair\ngrant.create(dom1, gfn)", 3, "expected '=', found ')'"),
        ("world pair\ngrant.create(dom1, gfn=)", 3, "gfn: expected a number, found ')'"),
        ("world pair\ngrant.create(dom1, gfn=0x4O)", 3, "gfn: expected a number, found '0x4O'"),
        ("world pair\ngrant.create(dom1, to=0x10000)", 3, "to: 0x10000 does not fit in 16 bits"),
        ("world pair\ngrant.create(dom1, rights=R|V)", 3, "rights: expected a number or R|W|X, found 'V'"),
        (
            "world pair\ngrant.map(dom1, flags=HSOT)",
            3,
            "flags: expected a number or HOST|DEVICE|READONLY, found 'HSOT' - did you mean 'HOST'?",
        ),
        ("world pair\ngrant.create(dom1", 3, "expected ')', found the end of the line"),
        ("world pair\ngrant.create(dom1) hlt", 3, "expected the end of the line, found 'h'"),
        ("world pair\ngrant.revoke(dom1, ref=r1)", 3, "ref: no op has the label r1"),
        (
            "world pair\ngrant.revoke(dom1, ref=r1)\nr1 = grant.create(dom1)",
            3,
            "ref: expected the label of an earlier op, found r1 of line 4",
        ),
        (
            "world pair\nr1 = grant.create(dom1)\ngrant.create(dom1, gfn=r1)",
            4,
            "gfn: expected a number, found the label r1",
        ),
        ("world pair\nr1 = hlt(dom1)\nr1 = hlt(dom1)", 4, "label r1 is already used"),
        ("world pair\nsched.poll(dom1, ports=[1, )", 3, "ports: expected a number, found ')'"),
        ("world pair\nsched.poll(dom1, ports=[1 2])", 3, "expected ']', found '2'"),
        ("world pair\nsched.poll(dom1, ports=)", 3, "ports: expected a number or [, found ')'"),
        (f"world pair\nsched.poll(dom1, ports=[{'1, ' * 20}1])", 3, "ports: an array has at most 20 elements"),
        ("world pair\nhlt(dom1) !size=1", 3, "'hlt' has no argument struct to mangle"),
        ("world pair\ngrant.create(dom1) !sise=1", 3, "unknown mangled part 'sise' - did you mean 'size'?"),
        ("world pair\ngrant.create(dom1) !size=65536", 3, "size: 65536 does not fit in 16 bits"),
        ("world pair\nrace 1: hlt(dom1)", 3, "expected the raced op, found the end of the program"),
        (
            "world pair\nrace 1: hlt(dom1)\npause(dom1)",
            4,
            "'pause' cannot be raced there: it fetches no guest memory",
        ),
        (
            "world pair\nrace before write 1: hlt(dom1)\npause(dom1)",
            4,
            "'pause' cannot be raced there: the hypervisor writes nothing for it",
        ),
        (
            "world pair\nrace at step 0: hlt(dom1)\nhlt(dom1)",
            4,
            "'hlt' cannot be raced there: it has no preemption points",
        ),
        ("world pair\nrace at step 64: hlt(dom1)", 3, "expected a step number from 0 to 63, found '64'"),
        ("world pair\nrace before reset 1: hlt(dom1)", 3, "expected a fetch number from 0 to 63, found 'before'"),
        ("world pair\nrace 64: hlt(dom1)", 3, "expected a fetch number from 0 to 63, found '64'"),
        ("world pair\nrace 1 hlt(dom1)", 3, "expected ':', found 'h'"),
        (
            "world pair\nrace 1: hlt(dom1)\nrace 1: hlt(dom1)",
            4,
            "expected the raced op, found a second race",
        ),
        ("world pair\n" + "hlt(dom1)\n" * (MAX_OPS + 1), MAX_OPS + 3, f"a program has at most {MAX_OPS} ops"),
    ],
)
def test_errors_say_where_and_what(lines: str, line: int, message: str, own: Catalogue) -> None:
    with pytest.raises(TextError) as caught:
        parse(f"# hvp 1\n{lines}", own)
    assert caught.value.message == message
    assert caught.value.line == line


def test_an_error_points_at_the_word(own: Catalogue) -> None:
    with pytest.raises(TextError, match=r"^line 3, column 20: unknown field"):
        parse("# hvp 1\nworld pair\ngrant.create(dom1, gnf=1)", own)


def test_another_version_of_the_text_is_refused(own: Catalogue) -> None:
    with pytest.raises(TextError, match="expected '# hvp 1'"):
        parse("# hvp 2\nworld pair\n", own)
