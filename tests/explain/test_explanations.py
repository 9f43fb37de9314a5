"""The explanation of each reproducer in crashes/, word for word, and what holds for every explanation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from hvfuzz.bugs import Bug, find_bug, known_bugs
from hvfuzz.campaign.findings import load_record
from hvfuzz.campaign.program_files import read_program
from hvfuzz.explain.explainer import explain, explain_without_run
from hvfuzz.explain.judgement.severity import TITLES
from hvfuzz.explain.telling.as_page import page
from hvfuzz.explain.telling.as_text import lines
from hvfuzz.explain.telling.explanation import Explanation
from hvfuzz.explain.telling.schema import explanation_schema
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.oracles.framework.finding import Finding

CRASHES = sorted((Path(__file__).parents[2] / "crashes").iterdir())
CATALOGUE = catalogue(ABI)


def of_crash(folder: Path) -> Explanation:
    record = load_record(folder)
    assert record.bug is not None
    told = explain(read_program(folder / "program.hvp", CATALOGUE), find_bug(record.bug))
    assert told is not None
    return told


def of_bug(bug: Bug) -> Explanation:
    told = explain(parse(bug.trigger, CATALOGUE), bug)
    assert told is not None
    return told


@pytest.mark.parametrize("folder", CRASHES, ids=lambda folder: folder.name)
def test_each_reproducer_is_explained_as_before(folder: Path, golden: Callable[[str, str], None]) -> None:
    golden(f"explain/{folder.name}.txt", "\n".join(lines(of_crash(folder))) + "\n")


@pytest.mark.parametrize("name", sorted(known_bugs()))
def test_an_explanation_gives_no_name_of_the_bugs_own_code_away(name: str) -> None:
    """Where to look is told in functions of the hypervisor."""
    bug = find_bug(name)
    told = of_bug(bug)
    places = " ".join(f"{place.file} {place.function}" for place in told.places)
    assert "bugs/" not in places
    assert bug.replacement.__name__ not in places.split() or bug.replaces.endswith(bug.replacement.__name__)
    assert all((Path(__file__).parents[2] / place.file).is_file() for place in told.places)


@pytest.mark.parametrize("name", sorted(known_bugs()))
def test_an_explanation_is_the_same_each_time(name: str) -> None:
    bug = find_bug(name)
    assert of_bug(bug) == of_bug(bug)


@pytest.mark.parametrize("name", sorted(known_bugs()))
def test_all_findings_are_in_it_once(name: str) -> None:
    bug = find_bug(name)
    told = of_bug(bug)
    identities = [told.root.identity, *(found.identity for found in told.follows)]
    assert len(identities) == len(set(identities))
    assert set(bug.findings) <= set(identities)
    assert told.severity in TITLES.values()
    json.dumps(told.as_document())


def test_ops_that_do_not_matter_are_left_out() -> None:
    """A stale translation of dom1 has nothing to do with what dom2 stores, nor with what comes after."""
    bug = find_bug("xsa-346")
    head, *ops = bug.trigger.strip().split("\n")[1:]
    noise = ["store(dom2, gva=DIRECT+0x41000, size=8, value=7)", "cpuid(dom0, leaf=0)"]
    program = parse("\n".join(["# hvp 1", head, *noise, *ops, *noise]) + "\n", CATALOGUE)
    told = explain(program, bug)
    assert told is not None
    assert [op.number for op in told.ops] == [2, 3]
    assert told.left_out == 4


def test_what_the_guest_chose_is_traced_to_its_operands() -> None:
    """XSA-212: the address is computed from an index that is not checked."""
    told = of_bug(find_bug("xsa-212"))
    assert any("is out + 8 * start, with out = 0 and start = 0x1ffff00000000000" in each for each in told.operands)


def test_a_clean_program_has_no_explanation() -> None:
    assert explain(parse(find_bug("xsa-78").trigger, CATALOGUE)) is None


def test_a_program_that_ends_its_process_is_explained_by_its_finding() -> None:
    program = parse(find_bug("xsa-78").trigger, CATALOGUE)
    finding = Finding("host_process", "signal:SIGSEGV", "device.dma_map", "the process was killed by SIGSEGV", 0)
    told = explain_without_run(program, None, [finding])
    assert "SIGSEGV" in told.paragraph
    assert told.severity == "STOP OF THE HOST"


@pytest.mark.parametrize("name", ["xsa-78", "xsa-212", "xsa-221"])
def test_a_page_needs_nothing_else(name: str) -> None:
    told = of_bug(find_bug(name))
    document = page(told)
    assert document.count("<svg") >= 1
    assert "<script" not in document
    assert "http" not in document.replace("http://www.w3.org/2000/svg", "")
    assert told.title in document
    for finding in told.follows:
        assert finding.identity in document


@pytest.mark.parametrize("name", sorted(known_bugs()))
def test_the_document_is_as_its_schema_says(name: str) -> None:
    schema = explanation_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    document = json.loads(json.dumps({"file": "program.hvp", "explanation": of_bug(find_bug(name)).as_document()}))
    validator.validate(document)
    validator.validate({"file": "program.hvp", "explanation": None})
    document["explanation"]["ops"][0]["number"] = "first"
    assert not validator.is_valid(document)
