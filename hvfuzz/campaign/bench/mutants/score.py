"""The mutation score: the share of mutants that an oracle notices, of those that are not equivalent to the original."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

from hvfuzz.campaign.bench.mutants.generation import is_critical
from hvfuzz.campaign.bench.mutants.judging import BY_CORPUS, INTERNAL, KILLED, SURVIVED, UNSUPPORTED, Judgement
from hvfuzz.campaign.bench.mutants.survivors import EQUIVALENT, Survivor

ALL = "all files"
CRITICAL_FILES = "isolation-critical files"
EXCEPTION = "host_memory/exception:"


class Score(NamedTuple):
    """Figures of some mutants."""

    by_corpus: int = 0
    by_fuzzing: int = 0
    exceptions: int = 0
    """How many of those ended in an exception of the host, such as a TypeError: that takes no clever oracle."""
    survived: int = 0
    """Without those that are equivalent."""
    not_reached: int = 0
    """How many of `survived` no corpus program executes."""
    internal: int = 0
    """Those on which hvfuzz itself failed: they count as not killed."""
    equivalent: int = 0
    unsupported: int = 0
    """Those that cannot be planted, or would change nothing; they do not count."""

    @property
    def killed(self) -> int:
        """Mutants with a finding."""
        return self.by_corpus + self.by_fuzzing

    @property
    def share(self) -> float | None:
        """Killed mutants as a share of all that count; None if there are none."""
        counted = self.killed + self.survived + self.internal
        return self.killed / counted if counted else None

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        return type(self)(*(one + another for one, another in zip(self, other, strict=True)))

    def plain(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**self._asdict(), "killed": self.killed, "score": self.share}


def score_of(judgement: Judgement, judged: Mapping[str, Survivor]) -> Score:
    """The figures of one mutant; `judged` are the survivors that people have looked at, by id."""
    if judgement.verdict == KILLED:
        exceptions = int(judgement.finding.startswith(EXCEPTION))
        if judgement.by == BY_CORPUS:
            return Score(by_corpus=1, exceptions=exceptions)
        return Score(by_fuzzing=1, exceptions=exceptions)
    if judgement.verdict == UNSUPPORTED:
        return Score(unsupported=1)
    if judgement.verdict == INTERNAL:
        return Score(internal=1)
    assert judgement.verdict == SURVIVED
    record = judged.get(judgement.mutant.id)
    if record is not None and record.verdict == EQUIVALENT:
        return Score(equivalent=1)
    return Score(survived=1, not_reached=int(not judgement.reached))


def scores(judgements: Iterable[Judgement], judged: Mapping[str, Survivor]) -> dict[str, Score]:
    """The figures of each file, sorted, then those of CRITICAL_FILES and of ALL."""
    files: dict[str, Score] = {}
    critical = everything = Score()
    for judgement in judgements:
        one = score_of(judgement, judged)
        path = judgement.mutant.path
        files[path] = files.get(path, Score()) + one
        everything += one
        if is_critical(path):
            critical += one
    return {**dict(sorted(files.items())), CRITICAL_FILES: critical, ALL: everything}
