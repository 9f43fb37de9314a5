"""The random engine: generates and mutates programs without feedback, as a baseline for comparisons."""

import random

from hvfuzz.engines.engine import Job, Session
from hvfuzz.guest.format.binary import decode
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import mutate


class RandomEngine:
    """After the seeds, runs generated programs and mutated seeds (one to four mutations), half of each."""

    def fuzz(self, job: Job, session: Session) -> None:
        """See `Engine.fuzz`; the programs depend on the job only."""
        catalogue = session.target.catalogue
        rng = random.Random(job.seed)
        seeds = [decode(seed, catalogue) for seed in job.seeds]
        for seed in seeds:
            session.run(seed)
        while True:
            if seeds and rng.random() < 0.5:
                program = rng.choice(seeds)
                for _ in range(rng.randint(1, 4)):
                    program = mutate(program, rng, catalogue, session.weights())
            else:
                program = generate(rng, catalogue, weights=session.weights())
            session.run(program)


ENGINE = RandomEngine()
