"""What the laws change: pairs that really happen and are undone, and names that really change places."""

from typing import Final

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Actor, Ref, defect
from hvfuzz.guest.run.trace import Result
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.laws.law_table import BY_NAME
from hvfuzz.targets.laws.law_target import LawTarget
from hvfuzz.targets.laws.swapped_names import MIRRORED, NAMES, name_offsets, open_program, renamed
from hvfuzz.targets.laws.undone_pairs import INVERSES, NESTS, PLACES, inverse, with_nests

OPS: Final = catalogue(ABI)
HEAD: Final = "# hvp 1\nworld pair\n"


@pytest.mark.parametrize("nest", NESTS, ids=lambda nest: "+".join(begin.call for begin in nest))
def test_each_call_of_a_nest_succeeds_and_is_undone(nest: tuple[object, ...]) -> None:
    with LawTarget() as target:
        program = parse(f"{HEAD}cpuid(dom1, leaf=0)\n", target.catalogue)
        variant = with_nests(program, NESTS[NESTS.index(nest)], target.catalogue)  # type: ignore[arg-type]
        assert target.compare(BY_NAME["undo"], variant)[1] is None
        assert target.second.guide.succeeded == set(variant.inserted)
        assert len(variant.inserted) == 2 * (1 + 2 * len(nest))
        assert target.second.guide.counterpart(0) is None


def test_all_calls_that_can_be_undone_are_in_a_nest() -> None:
    assert {begin.call for nest in NESTS for begin in nest} == INVERSES.keys()


@pytest.mark.parametrize(
    ("call", "undone"),
    [
        ("memory.populate(dom1, first=0x200, count=3, order=0)", "memory.decrease(dom1, first=0x200, count=3)"),
        ("memory.populate(dom1, first=0x200, count=1, order=9)", "memory.decrease(dom1, first=0x200, count=512)"),
        ("grant.map(dom2, granter=1, ref=4, gfn=8, flags=HOST)", "grant.unmap(dom2, handle=r0, count=1, flags=3)"),
        ("device.assign(dom0, device=3, to=1)", "device.deassign(dom0, device=3)"),
        ("device.dma_map(dom1, iova=0x1000, gfn=2, count=5, rights=R)", "device.dma_unmap(dom1, iova=0x1000, count=5)"),
    ],
)  # fmt: skip
def test_the_arguments_of_an_inverse_follow_from_the_declarations(call: str, undone: str) -> None:
    (op,) = parse(f"{HEAD}{call}\n", OPS).ops
    expected = parse(f"{HEAD}{call.replace('grant.map', 'r0 = grant.map')}\n{undone}\n", OPS).ops[1]
    assert inverse(op, 0, OPS) == expected


def test_nests_leave_batches_whole_and_references_right() -> None:
    text = f"""{HEAD}\
r0 = event.alloc(dom1, remote=2)
multicall(dom1, count=3)
event.send(dom1, port=r0)
sched.yield(dom1)
"""
    program = parse(text, OPS)
    variant = with_nests(program, NESTS[0], OPS)
    kept = [at for at, origin in enumerate(variant.origin) if origin >= 0]
    assert [variant.second.ops[at].kind for at in kept] == [op.kind for op in program.ops]
    assert kept[1:] == [kept[1], kept[1] + 1, kept[1] + 2]
    assert variant.second.ops[kept[2]].values == (Ref(kept[0]),)
    assert variant.second.ops[kept[3] + 1].kind.number is None, "no nest becomes part of the batch"
    long = program._replace(ops=program.ops[:1] * 200)
    assert len(with_nests(long, NESTS[0], OPS).second.ops) == 200 + 3 * (PLACES + 1)


def test_names_change_places_wherever_an_operand_names_a_domain() -> None:
    text = f"""{HEAD}\
grant.create(dom1, gfn=2, to=2, rights=R)
grant.copy(dom0, flags=SOURCE_REF, from_domain=1, to_domain=SELF, from=1, to=2, length=1)
blob(dom2.1, number=event.alloc, words=[0x20010, 0x70001])
  race 1: load(dom2, gva=1, size=2)
memory.populate(dom1, first=1, count=2, order=0)
event.bind(dom2, remote=3, port=1)
"""
    other = f"""{HEAD}\
grant.create(dom2, gfn=2, to=1, rights=R)
grant.copy(dom0, flags=SOURCE_REF, from_domain=2, to_domain=SELF, from=1, to=2, length=1)
blob(dom1.1, number=event.alloc, words=[0x20010, 0x70002])
  race 1: load(dom1, gva=1, size=2)
memory.populate(dom2, first=1, count=2, order=0)
event.bind(dom1, remote=3, port=1)
"""
    program = parse(text, OPS)
    assert open_program(program, OPS) == program
    assert render(renamed(program, OPS)) == render(parse(other, OPS))
    assert renamed(renamed(program, OPS), OPS) == program


@pytest.mark.parametrize(
    ("op", "left"),
    [
        ("vmcall(dom1, rax=event.alloc, rdi=0)", "pause"),
        ("vmcall(dom1, rax=console.write, rdi=0)", "vmcall"),
        ("vmcall(dom1, rax=multicall, rdi=0)", "pause"),
        ("blob(dom1, number=event.alloc, words=[0x20010])", "pause"),
        ("blob(dom1, number=event.alloc, words=[0x20010, 1])", "blob"),
        ("blob(dom1, number=multicall, words=[0x20018, 0, 1])", "pause"),
        ("multicall(dom1, entries=0x1000, count=1)", "pause"),
        ("multicall(dom1, count=1)", "pause"),
        ("tlb(dom1, capacity=0)", "pause"),
        ("event.alloc(dom1, remote=2)", "event.alloc"),
    ],
)
def test_calls_with_hidden_names_are_left_out(op: str, left: str) -> None:
    (first,) = open_program(parse(f"{HEAD}{op}\n", OPS), OPS).ops
    assert first.kind.name == left


def test_a_named_call_has_no_race_and_its_own_struct() -> None:
    text = f"{HEAD}  race 1: load(dom1.1, gva=0, size=8)\nevent.alloc(dom1, remote=2) !size=8 !pointer=0x1000\n"
    (op,) = open_program(parse(text, OPS), OPS).ops
    assert op.race is None
    assert op.mangle is not None
    assert op.mangle.pointer is None
    assert op.mangle.size == 8


def test_a_batch_that_names_and_copies_falls_apart() -> None:
    batch = "multicall(dom1, count=2)\nevent.alloc(dom1, remote=2)\n"
    for last, kind in (("sched.yield(dom1)", "multicall"), ("console.write(dom1, text=0x1000, length=8)", "pause")):
        assert open_program(parse(f"{HEAD}{batch}{last}\n", OPS), OPS).ops[0].kind.name == kind


def test_names_are_at_their_offsets() -> None:
    named = {call.name: name_offsets(call) for call in ABI.calls if name_offsets(call)}
    assert named == {
        "grant.create": (16,),
        "grant.map": (8,),
        "grant.copy": (10, 12),
        "event.alloc": (8,),
        "event.bind": (8,),
        "device.assign": (10,),
    }


def test_a_mirrored_world_has_the_same_domains_under_other_numbers() -> None:
    for world, mirror in zip(WORLDS, MIRRORED, strict=True):
        assert mirror.domains[0] == world.domains[0]
        assert [mirror.domains[NAMES[number]] for number in (1, 2)] == list(world.domains[1:])
        assert mirror._replace(domains=world.domains) == world


def test_one_by_one_the_guest_makes_each_call_itself() -> None:
    text = f"{HEAD}multicall(dom1, count=2)\nevent.alloc(dom1, remote=2)\nevent.close(dom1, port=9)\n"
    with LawTarget(laws=[BY_NAME["multicall"]]) as target:
        program = parse(text, target.catalogue)
        exits: list[int] = []
        guide = target.second.guide
        started = guide.exit_started
        guide.exit_started = lambda vcpu: (exits.append(vcpu.id), started(vcpu))[1]  # type: ignore[method-assign]
        assert target.run(program).findings == ()
        assert len(exits) == 2
        (moment,) = guide.leader.moments.values() if guide.leader else ()
        assert [outcome.how for outcome in moment.outcomes] == [Result.OK] * 3
        assert len(moment.exits) == 1


def test_programs_after_a_change_are_well_formed() -> None:
    program = parse(f"{HEAD}grant.create(dom1.1, gfn=2, to=2, rights=R)\n", OPS)
    assert defect(renamed(program, OPS)) is None
    assert renamed(program, OPS).ops[0].actor == Actor(2, 1)
    for nest in NESTS:
        assert defect(with_nests(program, nest, OPS).second) is None
