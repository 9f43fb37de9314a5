"""Programs as units, the byte strings that a byte-level engine such as libFuzzer works on."""

import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.engines.engine import Job
from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program

FIRST_PROGRAMS: Final = 32
"""Number of generated programs that a campaign without seeds starts with."""
KEPT_PROGRAMS: Final = 4096
"""Capacity of the cache of decoded programs."""


class Units:
    """Converts between programs over `catalogue` and units, with a cache of decoded programs.

    Without the cache, a mutated program would be decoded once to run it and again for each further mutation.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue: Final = catalogue
        self._decoded: Final[dict[bytes, Program]] = {}

    def program(self, data: bytes) -> Program:
        """The program encoded as `data`; every byte string is one."""
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
        """The canonical encoding of the first `ops` ops of `program`, or of fewer if `limit` bytes are too few."""
        while True:
            program = program._replace(ops=program.ops[:ops])
            data = encode(program, self.catalogue)
            if len(data) <= limit:
                self._keep(data, program)
                return data
            if not program.ops:
                return b""
            ops = len(program.ops) * 3 // 4

    def write_seeds(self, job: Job, each: Callable[[], None] = lambda: None) -> list[Path]:
        """Write the seeds of `job`, or generated programs if there are none, as files; returns their paths.

        Calls `each` before each of them.
        """
        programs: Iterable[Program] = (decode(seed, self.catalogue) for seed in job.seeds)
        if not job.seeds:
            rng = random.Random(job.seed)
            weights = job.harness.weights
            programs = [generate(rng, self.catalogue, weights=weights) for _ in range(FIRST_PROGRAMS)]
        folder = job.scratch / f"{job.harness.name}-seeds"
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for program in programs:
            each()
            data = encode(program, self.catalogue)
            path = folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()
            if not path.exists():
                write_atomically(path, data)
            paths.append(path)
        return paths
