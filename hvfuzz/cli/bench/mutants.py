"""`hvfuzz bench mutants`: measures what share of small faults of the hypervisor the oracles notice."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import click

from hvfuzz.campaign.bench.mutants.generation import all_mutants, find_mutant, is_critical, sample
from hvfuzz.campaign.bench.mutants.judge_process import judge_all
from hvfuzz.campaign.bench.mutants.judging import INTERNAL, KILLED, SURVIVED, Judgement
from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.reach import Reach, corpus_programs, kept_reach, usual_reach_file
from hvfuzz.campaign.bench.mutants.results_file import ResultsFile, read_judgements, still_to_judge
from hvfuzz.campaign.bench.mutants.score import Score, scores
from hvfuzz.campaign.bench.mutants.survivors import (
    EQUIVALENT,
    USUAL_FOLDER,
    Survivor,
    edit_of,
    read_survivors,
    record_survivors,
)
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.cli.bench.benchmark_progress import Bar
from hvfuzz.cli.figure_table import FigureTable
from hvfuzz.cli.options import (
    PATH,
    Command,
    Whole,
    json_option,
    option,
    refuse_both,
    refuse_without_effect,
    seed_option,
    workers_option,
)
from hvfuzz.cli.screen import Screen, write_json, write_text
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

ANOTHER_EDIT: Final = "was judged as another edit than it is now"


@click.command(
    "mutants",
    cls=Command,
    short_help="Measure what share of small faults the oracles notice.",
    examples=(
        "hvfuzz bench mutants --sample 100",
        "hvfuzz bench mutants --critical --results mutants.jsonl --workers 4",
        "hvfuzz bench mutants --files hypervisor/memory --files 'machine/vtd/*' --budget 1000 --json",
        "hvfuzz bench mutants --show hypervisor/ipc/grants.py:pin:drop-check:1",
        "hvfuzz bench mutants --only hypervisor/ipc/grants.py:pin:drop-check:1",
    ),
)
@option(
    "--files",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    help="Files below hvfuzz/ to mutate: a file, a folder, or a pattern; may be repeated. [default: all]",
)
@option("--critical", is_flag=True, help="Mutate only the files on which isolation rests.")
@option("--sample", "count", metavar="N", type=Whole(min=1), help="Judge N mutants, chosen at random. [default: all]")
@option(
    "--budget",
    metavar="N",
    type=Whole(min=0),
    default=500,
    show_default=True,
    help="Number of random programs that a mutant gets which the corpus does not kill.",
)
@seed_option("Random seed of the sample and of the random programs.", default=0)
@workers_option("Number of mutants to judge in parallel.")
@option("--results", metavar="FILE", type=PATH, help="Append each judgement to FILE, and skip those that it has.")
@option(
    "--survivors",
    "folder",
    metavar="FOLDER",
    type=PATH,
    default=USUAL_FOLDER,
    show_default=True,
    help="What is known about survivors: a file each.",
)
@option("--record", is_flag=True, help="Write a file to the folder of survivors for each that has none.")
@option("--show", metavar="ID", help="Print the diff of one mutant, and judge nothing.")
@option("--only", metavar="ID", help="Judge one mutant, and print what killed it; exits with 1 if it survives.")
@json_option("Print one JSON object with every judgement.")
def mutants(
    patterns: tuple[str, ...],
    critical: bool,
    count: int | None,
    budget: int,
    seed: int,
    workers: int,
    results: Path | None,
    folder: Path,
    record: bool,
    show: str | None,
    only: str | None,
    as_json: bool,
) -> None:
    """Plant small faults one at a time, and count those that an oracle notices.

    A mutant is one edit of a function of the hypervisor, or of the MMU, TLB and IOMMU: a check, a call or a count left
    out, a number off by one, a condition negated, a right or a domain swapped, something fetched twice, an early
    return, a loop without its last turn. It is judged by the programs of corpus/ and crashes/ that reach it, audited,
    then by random programs, until an oracle reports a finding. The verdict depends on the seed and the budget only, not
    on the load of the machine.

    The score is the share of killed mutants, without those whose file in the folder of survivors says 'equivalent'.

    Ctrl-C stops early and prints the figures so far; with --results the next run goes on from there.
    """
    refuse_both("--show", "--only")
    for name in ("--files", "--critical", "--sample", "--record", "--results", "--workers"):
        for single, given in (("--show", show), ("--only", only)):
            if given is not None:
                refuse_without_effect(name, f"with {single}")
    if show is not None:
        _show(find_mutant(show), as_json)
        return
    known = read_survivors(folder)
    if only is not None:
        chosen, earlier = [find_mutant(only)], []
    else:
        every = [mutant for mutant in all_mutants(patterns) if not critical or is_critical(mutant.path)]
        chosen, earlier = sample(every, count, seed), [] if results is None else read_judgements(results)
    waiting = still_to_judge(chosen, earlier, budget)
    # Of an earlier run only the verdict counts: its edit may stand elsewhere in the file by now.
    answered = {mutant.id: mutant for mutant in chosen if mutant not in waiting}
    judgements = [each._replace(mutant=answered[each.mutant.id]) for each in earlier if each.mutant.id in answered]
    with StopSignal() as stop:
        _judge(waiting, judgements, ResultsFile(results), budget, seed, workers, stop)
    if only is not None:
        _finish_one(judgements, known, as_json, stop.status)
    unjudged = [each.mutant for each in judgements if each.verdict == SURVIVED and each.mutant.id not in known]
    written = record_survivors(folder, unjudged, known) if record else []
    rows = scores(judgements, known)
    if as_json:
        write_json(
            {
                "mutants": len(chosen),
                "budget": budget,
                "seed": seed,
                "interrupted": stop.requested(),
                "scores": {name: row.plain() for name, row in rows.items()},
                "judgements": [_plain(each, known) for each in judgements],
                "recorded": [str(path) for path in written],
            }
        )
    else:
        _print_scores(rows)
        _print_survivors(judgements, known)
    sys.exit(stop.status)


def _judge(
    waiting: list[Mutant],
    judgements: list[Judgement],
    file: ResultsFile,
    budget: int,
    seed: int,
    workers: int,
    stop: StopSignal,
) -> None:
    """Judge the mutants `waiting`, and append to `judgements` and to `file`, until `stop` is requested."""
    if not waiting:
        return
    reach = _reach()
    before = len(judgements)
    with Bar(len(waiting)) as bar, closing(judge_all(waiting, reach, budget, seed, workers)) as run:
        for judgement in run:
            if judgement is not None:
                file.append(judgement)
                judgements.append(judgement)
                if len(waiting) > 1:  # a single one is the result of the command
                    bar.print_result(_line(judgement))
            killed = sum(each.verdict == KILLED for each in judgements[before:])
            done = len(judgements) - before
            bar.show(done, f"{done:,} of {quantity(len(waiting), 'mutant')}, {killed:,} killed")
            if stop.requested():
                break


def _reach() -> Reach:
    programs = corpus_programs(catalogue(ABI))
    with Bar(len(programs)) as bar:
        return kept_reach(usual_reach_file(), programs, lambda done: bar.show(done, "which program reaches which line"))


def _line(judgement: Judgement) -> str:
    """One line for a judgement."""
    effort = quantity(judgement.programs, "program")
    if judgement.verdict == KILLED:
        return f"{judgement.mutant.id}: killed by {judgement.by}: {judgement.finding} after {effort}"
    reached = "" if judgement.reached else ", not reached by the corpus"
    why = judgement.finding if judgement.verdict == INTERNAL else judgement.message
    return f"{judgement.mutant.id}: {judgement.verdict} after {effort}{reached}{f': {why}' if why else ''}"


def _plain(judgement: Judgement, known: dict[str, Survivor]) -> dict[str, Any]:
    record = known.get(judgement.mutant.id)
    return {**judgement.plain(), "judged": None if record is None else record.verdict}


def _show(mutant: Mutant, as_json: bool) -> None:
    diff = mutant.diff(ModuleSource(mutant.path).bytes)
    if as_json:
        write_json({"id": mutant.id, **mutant._asdict(), "diff": diff})
    else:
        write_text(f"{mutant.id}, line {mutant.lines[0]}\n{diff}")


def _finish_one(judgements: list[Judgement], known: dict[str, Survivor], as_json: bool, status: int) -> None:
    """Print the judgement of a single mutant, and end the command."""
    if not judgements:
        sys.exit(status)
    (judgement,) = judgements
    if as_json:
        write_json(_plain(judgement, known))
    else:
        lines = [judgement.mutant.diff(ModuleSource(judgement.mutant.path).bytes), "", _line(judgement)]
        lines += [f"  {judgement.message}"] if judgement.verdict == KILLED else []
        lines += [f"  in {judgement.program}"] if judgement.program else []
        lines += [judgement.text] if judgement.text else []
        record = known.get(judgement.mutant.id)
        lines += [f"judged: {record.verdict}: {record.why}"] if record is not None else []
        write_text("\n".join(lines))
    sys.exit(status or int(judgement.verdict != KILLED))


def _print_scores(rows: dict[str, Score]) -> None:
    killed, alive = ("by corpus", "by fuzzing", "exceptions"), ("survived", "not reached", "internal")
    table = FigureTable("file", *killed, *alive, "equivalent", "not supported", "score")
    for name, row in rows.items():
        share = "-" if row.share is None else f"{row.share:.1%}"
        table.add_row(name, *(f"{figure:,}" for figure in row), share)
    Screen().print(table)


def _print_survivors(judgements: list[Judgement], known: dict[str, Survivor]) -> None:
    """List what was not killed, but for what is known to be equivalent, and records that do not fit any more."""
    console = Screen()
    for judgement in sorted(judgements, key=lambda each: each.mutant.id):
        mutant = judgement.mutant
        record = known.get(mutant.id)
        if record is not None and record.edit != edit_of(mutant.diff(ModuleSource(mutant.path).bytes)):
            console.print(f"warning: {mutant.id} {ANOTHER_EDIT}", style="yellow", markup=False, soft_wrap=True)
        if judgement.verdict in (SURVIVED, INTERNAL) and (record is None or record.verdict != EQUIVALENT):
            judged = "" if record is None else f" (judged: {record.verdict})"
            console.print(_line(judgement) + judged, markup=False, soft_wrap=True)
