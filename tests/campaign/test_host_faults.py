"""A fault of the host is a finding of a campaign, with its program, however it shows."""

from pathlib import Path

import pytest

from hvfuzz.campaign.workers.pool import Pool
from hvfuzz.campaign.workers.worker import WorkerJob

SEED = "# hvp 1\nworld pair\nsched.block(dom1)\n"
BUG = '''"""A host with a fault."""
import os, signal
from hvfuzz.bugs import Bug

class Silent(Exception):
    """An exception that cannot be printed."""
    def __str__(self):
        raise ValueError

def faulty(effect, hv, caller, vcpu):
    """The fault."""
    FAULT

BUG = Bug("faulty", "hvfuzz.hypervisor.hypercalls.sched:Block.check", faulty)
'''


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("raise SystemExit", "exception:SystemExit"),
        ("raise KeyboardInterrupt", "exception:KeyboardInterrupt"),
        ("raise Silent", "exception:Silent"),
        ("return faulty(effect, hv, caller, vcpu)", "exception:RecursionError"),
        ("return 7", "exception:"),
        ("vcpu.regs[:] = [None] * len(vcpu.regs)", "exception:"),
        ("del hv.machine.clock.cycles", "exception:AttributeError"),
    ],
)
def test_every_fault_is_found_with_its_program(fault: str, name: str, tmp_path: Path) -> None:
    bug = tmp_path / "faulty.py"
    bug.write_text(BUG.replace("FAULT", fault))
    seed = tmp_path / "seed.hvp"
    seed.write_text(SEED)
    out = tmp_path / "out"
    out.mkdir()
    # The generator of programs needs no seeds; `sched.block` is frequent.
    pool = Pool(WorkerJob("hypercalls", "random", 1, None, 60, str(bug), "state", str(out), [str(seed)]), 1)
    for _ in pool.run():
        pass
    found = {identity: each for identity, each in pool.discoveries.items() if f"/{name}" in identity}
    assert found, list(pool.discoveries)
    assert all("sched.block" in each.text for each in found.values())
    assert not pool.broken
    assert not pool.deaths
    assert pool.progress().runs == 60, "the campaign goes on"
