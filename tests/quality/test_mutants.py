"""The judged survivors still exist as they were judged, and a small sample of mutants is judged as it was."""

from pathlib import Path

import pytest

from hvfuzz.campaign.bench.mutants.generation import find_mutant
from hvfuzz.campaign.bench.mutants.judging import KILLED, judge
from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.reach import NamedProgram, Reach
from hvfuzz.campaign.bench.mutants.survivors import SUFFIX, edit_of, read_survivor
from hvfuzz.campaign.program_files import read_program
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

FOLDER = Path(__file__).with_name("mutants")
ROOT = Path(__file__).parents[2]
FILES = sorted(FOLDER.iterdir())
#: (mutant, program that reaches it, oracle that must notice it first), of most kinds.
SAMPLE = (
    (
        "hypervisor/hypercalls/grant/entries.py:RevokeGrant.apply:early-return:5",
        "corpus/hypercalls/race-grant-revoked-while-mapped.hvp",
        "recount",
    ),
    ("hypervisor/memory/dma.py:ContextTables.flush:early-return:2", "corpus/dma/two-devices.hvp", "stale"),
    (
        "hypervisor/memory/stage2.py:Stage2.unmap:drop-call:2",
        "corpus/hypercalls/race-grant-revoked-while-mapped.hvp",
        "stale",
    ),
    (
        "machine/mmu/stage1.py:Mmu.translate:off-by-one:5",
        "crashes/host_memory--hole--memory.exchange@xsa-212/program.hvp",
        "principal",
    ),
    (
        "hypervisor/hypercalls/device/dma_map.py:DmaMap.check:drop-check:5",
        "corpus/dma/peer-to-peer.hvp",
        "specification",
    ),
    (
        "hypervisor/hypercalls/grant/mappings.py:unmap_side:negate:1",
        "crashes/recount--pins--grant.unmap@xsa-224/program.hvp",
        "ownership",
    ),
    ("hypervisor/hypercalls/grant/copy.py:Copy.check:swap:8", "corpus/hypercalls/grant-copy.hvp", "ownership"),
    (
        "hypervisor/core/dispatch.py:commit_long:last-iteration:1",
        "corpus/hypercalls/race-grant-revoked-while-mapped.hvp",
        "specification",
    ),
    (
        "hypervisor/memory/allocator.py:Allocator._claim:drop-count:2",
        "corpus/hypercalls/race-grant-revoked-while-mapped.hvp",
        "recount",
    ),
    (
        "hypervisor/core/dispatch.py:vmcall:drop-store:2",
        "corpus/hypercalls/race-grant-revoked-while-mapped.hvp",
        "exits",
    ),
    (
        "hypervisor/core/dispatch.py:fetch_arguments:fetch-twice:1",
        "corpus/hypercalls/race-grant-revoked-while-mapped.hvp",
        "fetch",
    ),
    ("machine/mmu/tlb.py:Tlb.invlpg:early-return:2", "corpus/translation/pte-edit-and-invlpg.hvp", "stale"),
    ("machine/mmu/stage1.py:Mmu.translate:drop-check:1", "corpus/translation/pcids.hvp", "principal"),
    ("machine/vtd/fault_log.py:FaultLog.record:early-return:6", "corpus/dma/fault-log-overflows.hvp", "stale"),
    ("hypervisor/memory/rmrr.py:_check_unit:drop-operand:1", "corpus/dma/reserved-memory.hvp", "specification"),
    (
        "hypervisor/hypercalls/memory/protect.py:Protect._steps:drop-operand:2",
        "corpus/hypercalls/superpage-protected-but-for-an-end.hvp",
        "work",
    ),
    (
        "hypervisor/memory/page_checks.py:superpages_cut:off-by-one:1",
        "corpus/hypercalls/exchange-in-a-read-only-superpage.hvp",
        "host_memory",
    ),
    ("hypervisor/memory/guest_access.py:write_at:off-by-one:2", "corpus/hypercalls/exchange.hvp", "work"),
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_a_judged_survivor_is_still_the_same_edit(file: Path) -> None:
    assert file.suffix == SUFFIX
    record = read_survivor(file)
    assert file.name == record.file_name
    mutant = find_mutant(record.id)
    assert record.edit == edit_of(mutant.diff(ModuleSource(mutant.path).bytes))


@pytest.fixture(scope="module")
def booted() -> EmulatedTarget:
    return EmulatedTarget(mutated=True)


@pytest.mark.parametrize(("identity", "name", "oracle"), SAMPLE, ids=str)
def test_the_corpus_kills_it(identity: str, name: str, oracle: str, booted: EmulatedTarget) -> None:
    mutant = find_mutant(identity)
    first, last = mutant.lines
    named = NamedProgram(name, read_program(ROOT / name, booted.catalogue))
    lines = {mutant.path: frozenset(range(first, last + 1))}
    # As if it were reached at boot, so that each has a machine of its own.
    result = judge(mutant, Reach([named], lines, [lines], [1]), booted, 0, 0)
    assert (result.verdict, result.finding.partition("/")[0]) == (KILLED, oracle)
