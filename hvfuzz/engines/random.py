"""The blind engine: generates and mutates programs without any feedback, as the baseline of comparisons."""

import random

from hvfuzz.engines.engine import Job, Session
from hvfuzz.guest.format.binary import decode
from hvfuzz.guest.generate.generation import generate
from hvfuzz.guest.mutate.mutation import mutate


class RandomEngine:
    """Half new programs, half seeds mutated one to four times."""

    def fuzz(self, job: Job, session: Session) -> None:
        """Run until the budget is spent; the same seed gives the same programs."""
        catalogue = session.target.catalogue
        rng = random.Random(job.seed)
        weights = job.harness.weights
        seeds = [decode(seed, catalogue) for seed in job.seeds]
        for seed in seeds:
            session.run(seed)
        while True:
            if seeds and rng.random() < 0.5:
                program = rng.choice(seeds)
                for _ in range(rng.randint(1, 4)):
                    program = mutate(program, rng, catalogue, weights)
            else:
                program = generate(rng, catalogue, weights=weights)
            session.run(program)


ENGINE = RandomEngine()
