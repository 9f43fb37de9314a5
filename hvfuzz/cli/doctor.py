"""`hvfuzz doctor`: proves in a minute that the fuzzer and its oracles work on this machine."""

import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click
from rich.console import Console
from rich.markup import escape

from hvfuzz.bugs import known_bugs
from hvfuzz.campaign.workers.pool import Pool
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.cli.bugs import behaves, findings_of
from hvfuzz.engines.engine import ENGINES, EngineError, load_engine

PACKAGES: Final = ("click", "rich", "construct", "hypothesis", "atheris")
EASY_BUG: Final = "xsa-221"
ENGINE_SECONDS: Final = 12.0
CLEAN_SECONDS: Final = 8.0


class Check(NamedTuple):
    """One thing looked at."""

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
            yield Check(package, False, "not installed: pip install hvfuzz installs it where it is to be had")


def _bugs() -> Iterator[Check]:
    bad = []
    bugs = known_bugs()
    for bug in bugs.values():
        if not behaves(bug, findings_of(bug, planted=True), findings_of(bug, planted=False)):
            bad.append(bug.name)
    detail = f"{len(bugs) - len(bad)} of {len(bugs)} found by their oracle, and silent on the clean build"
    yield Check("planted bugs", not bad, detail + (f"; not so: {', '.join(bad)}" if bad else ""))


def _campaign(engine: str, bug: str | None, seconds: float) -> tuple[Pool, float]:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hvfuzz-doctor-") as folder:
        corpus = Path("corpus/hypercalls").resolve()
        job = WorkerJob(
            harness="hypercalls",
            engine=engine,
            seed=1,
            seconds=seconds,
            runs=None,
            bug=bug,
            feedback="state",
            out=folder,
            seeds=[str(corpus)] if corpus.is_dir() and bug is None else [],
        )
        pool = Pool(job, 1)
        for _ in pool.run():
            if bug is not None and pool.discoveries:
                break
    return pool, time.monotonic() - begin


def _engines() -> Iterator[Check]:
    for engine in ENGINES:
        if engine == "replay":
            continue  # it finds what it is given: the check of the bugs has done that
        try:
            load_engine(engine)
        except EngineError as error:
            yield Check(f"engine {engine}", False, str(error))
            continue
        pool, seconds = _campaign(engine, EASY_BUG, ENGINE_SECONDS)
        found = ", ".join(pool.discoveries)
        detail = (
            f"finds {EASY_BUG} in {seconds:.1f} s ({found})" if found else f"{EASY_BUG} not found in {seconds:.1f} s"
        )
        yield Check(f"engine {engine}", bool(found), detail)


def _clean() -> Iterator[Check]:
    pool, _ = _campaign("atheris", None, CLEAN_SECONDS)
    progress = pool.progress()
    found = ", ".join(pool.discoveries)
    detail = found or f"no findings in {progress.ops} ops"
    yield Check("clean hypervisor", not found and progress.ops > 0, detail)


@click.command("doctor", short_help="Check that everything works on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Check packages and engines, that each engine finds a planted bug, and that the clean hypervisor is clean.

    Takes about a minute; ends with status 1 if anything is wrong.

    \b
    Example:
      hvfuzz doctor
    """
    console = Console(stderr=as_json, highlight=False)
    checks = []
    for part in (_packages, _bugs, _engines, _clean):
        with console.status(f"checking {part.__name__.strip('_')}"):
            for check in part():
                checks.append(check)
                mark = "[green]ok[/] " if check.good else "[bold red]BAD[/]"
                console.print(f"{mark} {check.name:18} {escape(check.detail)}", soft_wrap=True)
    good = all(check.good for check in checks)
    if as_json:
        print(json.dumps({"good": good, "checks": [check._asdict() for check in checks]}))
    sys.exit(0 if good else 1)
