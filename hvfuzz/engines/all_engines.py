"""All engines by name; each is imported when it is asked for, since its package may be missing."""

import importlib
from difflib import get_close_matches
from typing import Final

from hvfuzz.engines.engine import Engine, EngineError

ENGINES: Final = ("atheris", "hypothesis", "random", "replay")


def load_engine(name: str) -> Engine:
    """The engine called `name`; raises `EngineError` if it is unknown, or if its package is not installed."""
    if name not in ENGINES:
        near = get_close_matches(name.lower(), ENGINES, 1, 0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise EngineError(f"no engine {name!r}{hint} (known: {', '.join(ENGINES)})")
    try:
        module = importlib.import_module(f"hvfuzz.engines.{name}")
    except ImportError as error:
        raise EngineError(f"engine {name!r} needs the package {error.name!r}, which is not installed") from error
    engine: Engine = module.ENGINE
    return engine
