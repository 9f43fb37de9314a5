"""Templates reach states of the hypervisor that single ops do not reach."""

from collections.abc import Callable
from random import Random

import pytest

from hvfuzz.abi.boot import WORLDS, WORLDS_BY_NAME
from hvfuzz.abi.device_models import IOAPIC, TIMER
from hvfuzz.abi.limits import GRANTS, LARGE_ORDER, POOL
from hvfuzz.guest.format.text import render
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.generate.templates.device_model_drivers import (
    coalesced_mmio_driver,
    floppy_driver,
    ioapic_driver,
    timer_driver,
)
from hvfuzz.guest.generate.templates.frame_lifecycle import frame_lifecycle
from hvfuzz.guest.generate.templates.repetition import (
    CONTIGUOUS_STRIDES,
    SPARSE_STRIDES,
    change_and_restore,
    strided_copies,
)
from hvfuzz.guest.generate.templates.resource_lifecycle import resource_lifecycle
from hvfuzz.guest.generate.templates.table_exhaustion import exhaust_page_table_pool, exhaust_table
from hvfuzz.guest.generate.templates.template_table import TEMPLATES
from hvfuzz.guest.generate.templates.user_mode import user_mode
from hvfuzz.guest.generate.templates.virtio_driver import virtio_driver
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.program.device_registers import VIRTIO_REGISTERS
from hvfuzz.guest.program.ops import Catalogue, catalogue
from hvfuzz.guest.program.program import MAX_OPS, Actor, Op, Program, Ref, defect
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.harness import HARNESSES

Make = Callable[..., Context]


@pytest.fixture
def known() -> Catalogue:
    """The kinds of ops over the real ABI: templates need related calls, which the small ABI lacks."""
    return catalogue(ABI)


@pytest.fixture
def context(known: Catalogue) -> Make:
    """A function (seed, harness, world) -> the context of an empty program."""
    return lambda seed, harness="hypercalls", world=0: Context(
        grammar_for(known, HARNESSES[harness].weights), Random(seed), world, []
    )


@pytest.mark.parametrize("harness", HARNESSES)
@pytest.mark.parametrize("template", [template for template, _ in TEMPLATES])
def test_every_template_is_well_formed_in_every_harness(
    context: Make, template: Callable[[Context], None], harness: str
) -> None:
    added = 0
    for seed in range(60):
        made = context(seed, harness, seed % len(WORLDS))
        for _ in range(3):
            template(made)
        program = Program(made.world, tuple(made.ops[:MAX_OPS]))
        assert defect(program) is None, render(program)
        assert all(made.grammar.weights[op.kind] for op in program.ops)
        assert made.frame_focus is None
        assert made.iova_focus is None
        assert {made.careful, made.free_frames, made.large_blocks} == {False}
        added += len(made.ops)
    assert added or harness in ("abi", "multicall", "dma"), "a harness may leave out the ops of a template"


def test_copies_advance_by_their_strides(context: Make, known: Catalogue) -> None:
    kind = known.by_name["device.dma_map"]
    op = Op(kind, Actor(1, 0), (0x1000, 0x40, 1, 3))
    values = [each.values for each in strided_copies(context(1), op, 3, CONTIGUOUS_STRIDES)]
    assert values == [(0x2000, 0x41, 1, 3), (0x3000, 0x42, 1, 3), (0x4000, 0x43, 1, 3)]
    for each in strided_copies(context(1), op, 3, SPARSE_STRIDES):
        assert each.values[0] >= 1 << 21, "no two share a table"
        assert each.values[1:] == op.values[1:]


def test_a_changed_copy_keeps_the_object_of_the_op(context: Make, known: Catalogue) -> None:
    kind = known.by_name["memory.protect"]
    op = Op(kind, Actor(1, 0), (0x200, 1, 7))
    back = 0
    for seed in range(100):
        made = context(seed)
        made.append(op)
        change_and_restore(made, op)
        assert made.ops[0] == op
        assert made.ops[1].values[0] == 0x200
        assert sum(old != new for old, new in zip(op.values, made.ops[1].values, strict=True)) <= 1
        back += made.ops[2:] == [op]
    assert 50 < back < 90


def test_exhausting_a_pool_takes_as_many_tables_as_it_has(context: Make) -> None:
    enough = 0
    for seed in range(100):
        made = context(seed)
        exhaust_page_table_pool(made, Actor(1, 0))
        addresses = {value >> 21 for op in made.ops if op.kind.name == "device.dma_map" for value in op.values[:1]}
        enough += len(addresses | {address >> 9 for address in addresses}) >= POOL // 2
    assert enough > 50


def test_exhausting_a_table_ends_with_a_call_on_the_whole_range(context: Make) -> None:
    swept, whole = 0, 0
    for seed in range(400):
        made = context(seed)
        exhaust_table(made)
        last = made.ops[-1]
        whole += len(made.ops) > GRANTS
        if last.kind.name == "grant.unmap" and isinstance(last.values[0], Ref):
            first = last.values[0].op
            mapped = all(op.kind.name == "grant.map" for op in made.ops[first:-1])
            swept += mapped and last.values[1] == len(made.ops) - 1 - first
    assert swept > 30
    assert whole, "sometimes all entries of a table are used"


def test_a_frame_lifecycle_often_has_a_large_block(context: Make) -> None:
    blocks = 0
    for seed in range(300):
        made = context(seed)
        frame_lifecycle(made)
        blocks += any(op.kind.name == "memory.populate" and op.values[2] == LARGE_ORDER for op in made.ops)
    assert 30 < blocks < 150


def test_user_mode_is_entered_and_mostly_left(context: Make) -> None:
    left = 0
    for seed in range(100):
        made = context(seed)
        user_mode(made)
        assert made.ops[0].kind.name == "sysret"
        left += made.ops[-1].kind.name == "syscall"
    assert 50 < left < 95


def test_a_resource_is_used_after_it_is_made(context: Make) -> None:
    used = 0
    for seed in range(100):
        made = context(seed)
        resource_lifecycle(made)
        used += any(isinstance(value, Ref) for op in made.ops for value in op.values)
    assert used > 80


def test_a_read_only_grant_is_mapped_read_only(known: Catalogue) -> None:
    made = Context(grammar_for(known), Random(1), 0, [])
    create, mapping = known.by_name["grant.create"], known.by_name["grant.map"]
    agreed = 0
    for rights in (1, 3) * 50:
        made.ops[:] = [Op(create, Actor(1, 0), (0x40, 2, rights))]
        op = append_with_prerequisites(made, mapping, Actor(2, 0))
        if op.values[1] == Ref(0) and rights == 1 and isinstance(op.values[4], int):
            agreed += op.values[4] & 4 != 0
    assert agreed > 25


def test_a_driver_kicks_the_queues_that_it_set_up(context: Make) -> None:
    kicked = 0
    for seed in range(100):
        made = context(seed, "hypercalls", WORLDS.index(WORLDS_BY_NAME["virtio"]))
        virtio_driver(made)
        assert made.ops[0].kind.name == "device.dma_map"
        writes = [op.values for op in made.ops if op.kind.name == "mmio_write"]
        registers = [values[1] for values in writes]
        assert registers.index(VIRTIO_REGISTERS["QUEUE_ENABLE"]) < registers.index(VIRTIO_REGISTERS["NOTIFY"])
        kicked += any(values[1:] == (VIRTIO_REGISTERS["NOTIFY"], 8, 1) for values in writes)
    assert 25 < kicked < 75, "only the network card has a queue 1, and it is chosen every other time"


def test_drivers_of_models_go_beyond_what_there_is_room_for(context: Make) -> None:
    longest, beyond, races = 0, 0, 0
    for seed in range(300):
        made = context(seed)
        floppy_driver(made)
        longest = max(longest, sum(op.kind.name == "out" for op in made.ops))
        made = context(seed)
        ioapic_driver(made)
        beyond += any(op.values[1] == IOAPIC.registers["IOREGSEL"] and op.values[3] >= 0x20 for op in made.ops)
        made = context(seed)
        coalesced_mmio_driver(made)
        races += any(op.race is not None for op in made.ops)
    assert longest > 40, "more parameters than the FIFO holds"
    assert beyond > 50
    assert races > 50


def test_a_timer_is_armed_for_a_domain_that_then_waits(context: Make) -> None:
    waits = 0
    for seed in range(100):
        made = context(seed)
        timer_driver(made)
        names = [op.kind.name for op in made.ops]
        waits += any(name in names for name in ("sched.block", "hlt", "sched.poll"))
        assert any(op.values[1] == TIMER.registers["TIMER_DELAY"] for op in made.ops if op.kind.name == "mmio_write")
    assert 50 < waits < 90
