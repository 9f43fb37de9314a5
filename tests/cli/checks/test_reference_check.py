"""The command `hvfuzz reference`; the comparisons themselves are tested in tests/references."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.references.all_references import REFERENCES, load_reference
from hvfuzz.references.reference import Difference, Quirk, ReferenceError, Report, find_program

Run = Callable[..., Any]


class Fake:
    """A reference that differs in `differences` cases."""

    name = "stage1"
    installation = "nothing"
    quirks: tuple[Quirk, ...] = ()

    def __init__(self, differences: int) -> None:
        self.differences = differences

    def compare(self, cases: int, seed: int, progress: Callable[[int], None]) -> Report:
        """Return a report for the requested cases and seed."""
        progress(cases)
        found = tuple(Difference(7 + each, "a [case]", "#PF(0x0)", "#PF(0x1)") for each in range(self.differences))
        return Report(self.name, "Fake 1.0", seed, cases, 2.0, found, {"early [flag]": 3, "late": 0})


@pytest.mark.parametrize(("differences", "words"), [(0, "no unexplained differences"), (1, "1 unexplained difference")])
def test_what_a_comparison_found(run: Run, monkeypatch: pytest.MonkeyPatch, differences: int, words: str) -> None:
    monkeypatch.setattr("hvfuzz.cli.checks.reference_check.load_reference", lambda name: Fake(differences))
    done = run("reference", "stage1", "--cases", 500, "--seed", 9)
    assert done.status == min(differences, 1)
    first, *rest = done.out.splitlines()
    assert first == f"stage1: {words} in 500 cases against Fake 1.0, seed 9 (2.0 s, 250 cases/s)"
    assert rest[:2] == [
        "  quirk early [flag]: changed the verdict of 3 cases",
        "  quirk late: changed the verdict of no cases",
    ]
    assert len(rest) == 2 + 3 * differences
    if differences:
        assert rest[2:] == ["  case 7: a [case]", "    model      #PF(0x0)", "    reference  #PF(0x1)"]
    document = json.loads(run("reference", "stage1", "--json").out)
    assert (document["cases"], document["seed"], len(document["differences"])) == (2000, 1, differences)
    assert document["quirks"] == {"early [flag]": 3, "late": 0}


def test_each_reference_names_its_installation() -> None:
    for name in REFERENCES:
        reference = load_reference(name)
        assert reference.name == name
        assert "install" in reference.installation
        assert len({quirk.name for quirk in reference.quirks}) == len(reference.quirks) > 0


def test_a_missing_program_is_named_with_its_package(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReferenceError, match=r"^no-such-tool is not installed: apt-get install some-package$"):
        find_program("no-such-tool", "some-package")
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("ept", "ring", "vtd"):
        done = run("reference", name, "--cases", 10)
        assert done.status == 2
        (line,) = done.err.splitlines()
        assert "apt-get install" in line


def test_an_unknown_reference(run: Run) -> None:
    done = run("reference", "stage3")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
