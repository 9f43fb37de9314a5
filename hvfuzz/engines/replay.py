"""The engine that only runs what it is given: the seeds, each once."""

from hvfuzz.engines.engine import Job, Session
from hvfuzz.guest.format.binary import decode


class ReplayEngine:
    """Runs every seed of the job once, in order."""

    def fuzz(self, job: Job, session: Session) -> None:
        """Run the seeds."""
        for seed in job.seeds:
            session.run(decode(seed, session.target.catalogue))


ENGINE = ReplayEngine()
