"""`hvfuzz doctor`: checks that the fuzzer and its oracles work on this machine."""

import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

import click
from rich.markup import escape

from hvfuzz.bugs import known_bugs
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.seed_corpus import seed_folders
from hvfuzz.campaign.workers.pool import Pool
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.cli.bugs import behaves, findings_of
from hvfuzz.cli.options import Command, json_option
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.engines.all_engines import ENGINES, load_engine
from hvfuzz.engines.engine import EngineError

PACKAGES: Final = ("click", "rich", "construct", "hypothesis", "atheris")
EASY_BUG: Final = "xsa-221"
ENGINE_RUNS: Final = 2000
"""Programs that an engine has to find the bug; the slowest finds it with 111. Seeds are fixed, so a verdict depends on
neither the speed of the machine nor what else runs on it."""
CLEAN_RUNS: Final = 1000
"""Programs without the bug."""


class Check(NamedTuple):
    """The result of one check."""

    name: str
    good: bool
    detail: str


def _packages() -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    yield Check("python", good, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Check(package, True, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, False, "not installed; run `pip install hvfuzz` on a platform with wheels for it")


def _bugs() -> Iterator[Check]:
    bad = []
    bugs = known_bugs()
    for bug in bugs.values():
        if not behaves(bug, findings_of(bug, planted=True), findings_of(bug, planted=False)):
            bad.append(bug.name)
    detail = f"the oracles find {len(bugs) - len(bad)} of {len(bugs)}, and nothing without the bug"
    yield Check("planted bugs", not bad, detail + (f"; failed: {', '.join(bad)}" if bad else ""))


def _campaign(engine: str, bug: str | None, runs: int) -> Pool:
    with tempfile.TemporaryDirectory(prefix="hvfuzz-doctor-") as folder:
        job = WorkerJob(
            harness="hypercalls",
            engine=engine,
            seed=1,
            seconds=None,
            runs=runs,
            bug=bug,
            feedback="state",
            out=folder,
            seeds=seed_folders("hypercalls") if bug is None else [],
        )
        pool = Pool(job, 1)
        for _ in pool.run():
            if bug is not None and pool.discoveries:
                break
    return pool


def _engines() -> Iterator[Check]:
    for engine in ENGINES:
        if engine == "replay":
            continue  # it finds nothing that it is not given
        try:
            load_engine(engine)
        except EngineError as error:
            yield Check(f"engine {engine}", False, str(error))
            continue
        pool = _campaign(engine, EASY_BUG, ENGINE_RUNS)
        found = ", ".join(pool.discoveries)
        verdict = f"finds planted bug {EASY_BUG}" if found else f"does not find planted bug {EASY_BUG}"
        detail = f"{verdict} in {quantity(pool.progress().runs, 'program')}" + (f" ({found})" if found else "")
        yield Check(f"engine {engine}", bool(found), detail)


def _first_engine() -> str:
    """The first engine that works on this machine; the last one needs no package."""
    for engine in ENGINES:
        with suppress(EngineError):
            load_engine(engine)
            return engine
    return "random"


def _clean() -> Iterator[Check]:
    pool = _campaign(_first_engine(), None, CLEAN_RUNS)
    progress = pool.progress()
    found = ", ".join(pool.discoveries)
    detail = f"unexpected findings: {found}" if found else f"no findings in {progress.ops:,} ops"
    yield Check("clean hypervisor", not found and progress.ops > 0, detail)


@click.command(
    "doctor", cls=Command, short_help="Check that hvfuzz works on this machine.", examples=("hvfuzz doctor",)
)
@json_option()
def command(as_json: bool) -> None:
    """Check that hvfuzz works on this machine.

    Checks that the packages are installed, that the oracles find every planted bug, that each engine finds an easy
    one, and that fuzzing the hypervisor without a bug finds nothing. Takes a minute or two; exits with 1 if a check
    fails.
    """
    console = Screen(stderr=as_json)
    checks = []
    for part in (_packages, _bugs, _engines, _clean):
        with console.status(f"checking {part.__name__.strip('_')}"):
            for check in part():
                checks.append(check)
                mark = "[green]ok[/] " if check.good else "[bold red]BAD[/]"
                console.print(f"{mark} {check.name:18} {escape(check.detail)}", soft_wrap=True)
    failed = [check.name for check in checks if not check.good]
    if as_json:
        write_json({"good": not failed, "checks": [check._asdict() for check in checks]})
    elif failed:
        console.print(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", style="bold red")
    else:
        console.print(f"all {len(checks)} checks passed", style="green")
    sys.exit(1 if failed else 0)
