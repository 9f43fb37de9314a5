"""Programs as an engine of bytes has them: decoded once, always canonical, never longer than they may be."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hvfuzz.engines.engine import Job, write_whole
from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.generate.generation import generate
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program

FIRST_PROGRAMS: Final = 32
"""How many generated programs a campaign without seeds begins with."""
KEPT_PROGRAMS: Final = 4096
"""Programs kept decoded."""


class Units:
    """The byte form of programs over `catalogue`, with the programs of late kept decoded.

    A mutated program is decoded for its run, and again to be mutated further.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue: Final = catalogue
        self._decoded: Final[dict[bytes, Program]] = {}

    def program(self, data: bytes) -> Program:
        """The program that `data` is."""
        program = self._decoded.get(data)
        if program is None:
            program = decode(data, self.catalogue)
            self._keep(data, program)
        return program

    def _keep(self, data: bytes, program: Program) -> None:
        if len(self._decoded) >= KEPT_PROGRAMS:
            self._decoded.clear()
        self._decoded[data] = program

    def fit(self, program: Program, limit: int, ops: int) -> bytes:
        """The canonical bytes of `program`, or of as many of its first `ops` ops as fit into `limit` bytes."""
        while True:
            program = program._replace(ops=program.ops[:ops])
            data = encode(program, self.catalogue)
            if len(data) <= limit:
                self._keep(data, program)
                return data
            if not program.ops:
                return b""
            ops = len(program.ops) * 3 // 4

    def write_seeds(self, job: Job) -> list[Path]:
        """Write the seeds of `job` as units; where there are none, a few programs as the generator makes them."""
        programs: Sequence[Program] = [decode(seed, self.catalogue) for seed in job.seeds]
        if not programs:
            rng = random.Random(job.seed)
            weights = job.harness.weights
            programs = [generate(rng, self.catalogue, weights=weights) for _ in range(FIRST_PROGRAMS)]
        folder = job.scratch / f"{job.harness.name}-seeds"
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for program in programs:
            data = encode(program, self.catalogue)
            path = folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()
            if not path.exists():
                write_whole(path, data)
            paths.append(path)
        return paths
