"""The replay engine: runs each seed once."""

from hvfuzz.engines.engine import Job, Session
from hvfuzz.guest.format.binary import decode


class ReplayEngine:
    """Runs the seeds of a job once, in order."""

    def fuzz(self, job: Job, session: Session) -> None:
        """See `Engine.fuzz`."""
        for seed in job.seeds:
            session.run(decode(seed, session.target.catalogue))


ENGINE = ReplayEngine()
