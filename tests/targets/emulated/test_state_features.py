"""State features distinguish behaviours, and do not count steps of a planted bug."""

from collections.abc import Callable
from typing import NamedTuple

from hvfuzz.bugs import find_bug, known_bugs
from hvfuzz.guest.format.text import parse
from hvfuzz.hypervisor.hypercalls.memory.reservation import RemovePage
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.emulated.state_features import SPACE


def features(program: str, bug: str | None = None) -> frozenset[int]:
    """The features of one run."""
    with EmulatedTarget(None if bug is None else find_bug(bug)) as target:
        return frozenset(target.run(parse(program, target.catalogue)).features)


def test_features_are_small_numbers() -> None:
    for bug in known_bugs().values():
        assert all(0 <= feature < SPACE for feature in features(bug.trigger))


def test_another_refusal_is_another_feature(text: Callable[..., str]) -> None:
    absent = features(text("memory.decrease(dom1, first=0x700, count=1)"))
    invalid = features(text("memory.decrease(dom1, first=0x700, count=0)"))
    assert absent - invalid
    assert invalid - absent


def test_a_stale_translation_has_its_own_feature(text: Callable[..., str]) -> None:
    """A missing flush adds no branch, but the TLB hit afterwards is a feature."""
    program = text(
        "load(dom1, gva=DIRECT+0x40000, size=8)",
        "invlpg(dom1, gva=DIRECT+0x40000)",
        "load(dom1, gva=DIRECT+0x40000, size=8)",
    )
    without = text(*(line for line in program.splitlines()[2:] if not line.startswith("invlpg")))
    assert features(program) - features(without)


def test_steps_of_a_planted_bug_are_not_counted() -> None:
    class Planted(NamedTuple):
        """A step whose class is not in the hypervisor package."""

    with EmulatedTarget() as target:
        collected = target.system(0).features
        collected.reset()
        collected.stepped(Planted())  # type: ignore[arg-type]
        assert not collected.hits
        collected.stepped(RemovePage(1, 0, 0))
        assert collected.hits


def test_a_call_after_another_step_has_its_own_feature(text: Callable[..., str]) -> None:
    """The call is the same; only an earlier mapping for a device differs."""
    decrease = "memory.decrease(dom1, first=0x41, count=1)"
    mapped = "device.dma_map(dom1, iova=0, gfn=0x40, count=1, rights=R)"
    new = features(text(mapped, decrease)) - features(text(decrease, mapped))
    assert new


def test_user_mode_has_its_own_feature(text: Callable[..., str]) -> None:
    kernel, user = (features(text(*lines)) for lines in (("cpuid(dom1, leaf=0)",), ("sysret(dom1)", "pause(dom1)")))
    both = features(text("sysret(dom1)", "cpuid(dom1, leaf=0)"))
    assert both - kernel - user
