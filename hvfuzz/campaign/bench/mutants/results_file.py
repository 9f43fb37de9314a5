"""The file of judgements: a JSON object a line, appended as each is made, so that a run can go on where one stopped."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hvfuzz.campaign.bench.mutants.generation import MutantError
from hvfuzz.campaign.bench.mutants.judging import KILLED, UNSUPPORTED, Judgement
from hvfuzz.campaign.bench.mutants.mutant import Mutant


def read_judgements(file: Path) -> list[Judgement]:
    """The judgements in `file`, which need not exist, the last one for each mutant.

    The line that a crash has cut short is passed over. Raises MutantError if the file is something else.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found: dict[str, Judgement] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            judgement = Judgement.read(json.loads(line))
        except ValueError as error:
            if not line.endswith(b"}"):
                continue
            raise MutantError(f"{file}: line {number} is no judgement of a mutant: {error}") from error
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise MutantError(f"{file}: line {number} is no judgement of a mutant") from error
        found[judgement.mutant.id] = judgement
    return list(found.values())


def still_to_judge(mutants: Iterable[Mutant], known: Iterable[Judgement], budget: int) -> list[Mutant]:
    """Those of `mutants` that `known` does not answer.

    A judgement answers for the same edit of the same code: one that survived must have had as many random programs.
    """
    answers = {each.mutant.id: each for each in known}

    def answered(mutant: Mutant) -> bool:
        answer = answers.get(mutant.id)
        if answer is None or (answer.mutant.before, answer.mutant.after) != (mutant.before, mutant.after):
            return False
        return answer.verdict in (KILLED, UNSUPPORTED) or answer.budget >= budget

    return [mutant for mutant in mutants if not answered(mutant)]


class ResultsFile:
    """Appends judgements to `path`; None writes nothing. Several processes may append to one file."""

    def __init__(self, path: Path | None) -> None:
        self._path: Final = path

    def append(self, judgement: Judgement) -> None:
        """Append one judgement in one write; an OSError names the file."""
        if self._path is None:
            return
        data = json.dumps(judgement.plain()).encode() + b"\n"
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                data = b"\n" + data  # a crash cut the last line short
            os.write(handle, data)
        except OSError as error:
            error.filename = str(self._path)
            raise
        finally:
            os.close(handle)
