"""The harness files' entry point: one atheris process with libFuzzer's own command line, and no supervisor.

Folders named are seeds and are only read; new inputs and findings go to ``out/`` (or the folder in HVFUZZ_OUT), since
seeds are reviewed text and libFuzzer's units are bytes.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hvfuzz.bugs import BugError, find_bug
from hvfuzz.campaign.corpus import seed_files
from hvfuzz.campaign.findings import FindingStore, record_of
from hvfuzz.engines.engine import EngineError, Job, Progress, Session, load_engine
from hvfuzz.guest.program import Program
from hvfuzz.oracles.finding import Finding
from hvfuzz.targets.emulated import EmulatedTarget
from hvfuzz.targets.harness import find_harness


class _Terminal:
    """Saves findings and prints a line for each; libFuzzer prints the progress itself."""

    def __init__(self, store: FindingStore, bug: str | None) -> None:
        self.store: Final = store
        self.bug: Final = bug

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        path = self.store.save(record_of(finding, program, self.bug, progress.runs, progress.seconds), program)
        print(f"hvfuzz: FINDING {finding.identity} in {path}\n  {finding.message}", file=sys.stderr, flush=True)

    def progress(self, progress: Progress) -> None:
        """Nothing: see the class."""


def main(harness: str, argv: Sequence[str]) -> None:
    """Fuzz `harness`; flags that begin with "-" go to libFuzzer, other arguments are seed files or folders.

    HVFUZZ_BUG plants a bug, HVFUZZ_OUT says where findings and new inputs go.
    """
    flags = [argument for argument in argv[1:] if argument.startswith("-")]
    folders = [Path(argument) for argument in argv[1:] if not argument.startswith("-")]
    out = Path(os.environ.get("HVFUZZ_OUT", "out")).resolve()
    bug = os.environ.get("HVFUZZ_BUG")
    try:
        missing = [folder for folder in folders if not folder.exists()]
        if missing:
            raise EngineError(f"{missing[0]}: no such file or folder")
        seeds = [path.read_bytes() for path in seed_files(folders)]
        engine = load_engine("atheris")
        with EmulatedTarget(None if bug is None else find_bug(bug)) as target:
            seed = next((int(flag[6:]) for flag in flags if flag.startswith("-seed=") and flag[6:].isdigit()), 0)
            job = Job(find_harness(harness), seeds, out / "corpus" / harness, seed=seed, arguments=flags)
            engine.fuzz(job, Session(target, job, _Terminal(FindingStore(out / "findings"), bug)))
    except (BugError, EngineError) as error:
        sys.exit(f"hvfuzz: {error}")
    except OSError as error:
        sys.exit(f"hvfuzz: {error.filename}: {error.strerror}")
