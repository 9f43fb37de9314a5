"""The atheris engine. Each run has its own process, since the engine ends it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hvfuzz.campaign.program_files import read_program
from hvfuzz.guest.format.binary import encode
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

pytest.importorskip("atheris")

SCRIPT = """
import json, sys
from pathlib import Path
from hvfuzz.bugs import find_bug
from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.engine import Feedback, Job, Session
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import find_harness

given = json.loads(sys.argv[1])
out = Path(given["out"])

class Printed:
    def found(self, finding, program, progress):
        print(json.dumps({"found": finding.identity, "runs": progress.runs}), flush=True)
    def progress(self, progress):
        print(json.dumps(progress._asdict()), flush=True)
    def broke(self, error, program):
        pass
    def ended(self):
        return 9

engine = load_engine("atheris")
if given.get("spoil"):
    import hvfuzz.engines.atheris as module
    def spoiled(*args, **kinds):
        raise RuntimeError("spoiled")
    module.mutate = module.crossover = spoiled
with EmulatedTarget(None if given["bug"] is None else find_bug(given["bug"])) as target:
    job = Job(find_harness("hypercalls"), [seed.encode() for seed in given["seeds"]], out / "corpus", out / "scratch",
              seed=given["seed"], runs=given["runs"], seconds=given["seconds"], feedback=Feedback(given["feedback"]))
    engine.fuzz(job, Session(target, job, Printed()))
print("came back")
"""


def fuzz(out: Path, **given: Any) -> tuple[list[dict[str, Any]], str]:
    """(events, output of libFuzzer) of a run of the engine."""
    job = {
        "out": str(out),
        "bug": None,
        "seeds": [],
        "seed": 1,
        "runs": 300,
        "seconds": None,
        "feedback": "state",
    } | given
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(job)], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


def units(out: Path) -> list[str]:
    """The names of the units in the corpus; each is the SHA-1 of its contents."""
    paths = sorted((out / "corpus").iterdir())
    assert all(path.name == hashlib.sha1(path.read_bytes()).hexdigest() for path in paths)
    return [path.name for path in paths]


@pytest.mark.parametrize("feedback", ["state", "bytecode", "both"])
def test_the_same_seed_gives_the_same_run(feedback: str, tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        events, _ = fuzz(tmp_path / name, bug="xsa-155", feedback=feedback, runs=150)
        last = {key: value for key, value in events[-1].items() if key in ("runs", "ops", "features", "corpus")}
        runs.append((last, [event for event in events if "found" in event], units(tmp_path / name)))
    assert runs[0] == runs[1]
    assert runs[0][0]["runs"] == 150
    assert runs[0][2], "feedback: some inputs are new"


def test_it_goes_on_after_a_finding_and_keeps_the_budget_of_runs(tmp_path: Path) -> None:
    events, _ = fuzz(tmp_path, bug="xsa-221", runs=500)
    found = [event for event in events if "found" in event]
    assert "host_memory/null/sched.poll" in [event["found"] for event in found]
    assert len({event["found"] for event in found}) == len(found)
    assert events[-1]["runs"] == 500 > found[0]["runs"]


def test_it_keeps_the_budget_of_time(tmp_path: Path) -> None:
    events, _ = fuzz(tmp_path, runs=None, seconds=0.5)
    assert events[-1]["seconds"] >= 0.5
    assert events[-1]["runs"] > 0


def test_units_can_be_read_as_programs(tmp_path: Path) -> None:
    fuzz(tmp_path, runs=200)
    assert all(read_program(tmp_path / "corpus" / name, catalogue(ABI)).ops is not None for name in units(tmp_path))


def test_seeds_are_run_and_stay_out_of_the_corpus(tmp_path: Path) -> None:
    seed = "# hvp 1\nworld pair\nsched.poll(dom1, ports=[5], count=1, timeout=0)\n"
    events, _ = fuzz(tmp_path, bug="xsa-221", seeds=[seed], runs=20)
    first = next(event for event in events if "found" in event)
    assert (first["found"], first["runs"] <= 3) == ("host_memory/null/sched.poll", True)


def test_a_mutator_that_fails_does_not_hang_the_engine(tmp_path: Path) -> None:
    events, errors = fuzz(tmp_path, runs=100, spoil=True)
    assert events[-1]["runs"] == 100
    assert "spoiled" in errors


def test_a_comma_in_the_name_of_the_folder_does_no_harm(tmp_path: Path) -> None:
    seed = "# hvp 1\nworld pair\nsched.poll(dom1, ports=[5], count=1, timeout=0)\n"
    events, _ = fuzz(tmp_path / "a,b", bug="xsa-221", seeds=[seed], runs=5)
    first = next(event for event in events if "found" in event)  # the number of progress events depends on time
    assert first["runs"] <= 3


def test_a_long_seed_is_run_to_its_end(tmp_path: Path) -> None:
    pages = ", ".join(["0x100"] * 20)
    exchange = f"memory.exchange(dom1, gfns=[{pages}], out=[{pages}], count=20, start=0)\n"
    seed = f"# hvp 1\nworld pair\n{exchange * 40}sched.poll(dom1, ports=[5], count=1, timeout=0)\n"
    assert len(encode(parse(seed, catalogue(ABI)), catalogue(ABI))) > 4096
    events, _ = fuzz(tmp_path, bug="xsa-221", seeds=[seed], runs=3)
    assert "host_memory/null/sched.poll" in [event.get("found") for event in events]
