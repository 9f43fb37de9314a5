"""The worker configuration of benchmarks that run campaigns."""

from pathlib import Path

from hvfuzz.campaign.seed_corpus import seed_bytes
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.engine import EngineError
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI


def benchmark_job(
    harness: str, engine: str, seed: int, seconds: float | None, feedback: str, seeds: list[str]
) -> WorkerJob:
    """Make a job without bug and folder. Raises EngineError or ProgramFileError if engine or seeds are unusable."""
    load_engine(engine)
    if engine == "replay" and not seeds:
        raise EngineError("engine 'replay' needs seeds; name some with --corpus")
    seed_bytes(map(Path, seeds), catalogue(ABI))
    return WorkerJob(harness, engine, seed, seconds, None, None, feedback, "", seeds)
