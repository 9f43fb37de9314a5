"""The rules of family `discovery`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hvfuzz.abi import limits
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected

CURRENT: Final = 2
FAMILIES: Final = 0x1FF
"""Page 0 of the features: all nine families."""
SINCE_2: Final = 0b111
"""Page 1 of the features: populate.flags, memory.exchange and device.dma_batch, since version 2."""
POOL_PAGES: Final = 9
"""Number of the limit that depends on the domain's state."""
_FAMILIES: Final = Accept(FAMILIES)
_CONSTANTS: Final = (
    limits.GRANTS,
    limits.HANDLES,
    limits.PORTS,
    limits.BATCH,
    limits.MULTICALL,
    limits.EXCHANGE,
    limits.POLL,
    limits.CONSOLE,
    limits.MAX_GFN,
)


def version(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Set the domain's version to the wanted one, or to the newest if that is lower."""
    want = call.args.want
    if want == 0:
        return Status.INVALID
    agreed = min(want, CURRENT)

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        state[("version", call.caller)] = agreed

    return Accept(agreed, effect)


def features(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Return the bitmap of families, or that of additions at the domain's version."""
    if call.args.page == 0:
        return _FAMILIES
    if call.args.page == 1:
        return Accept(SINCE_2 if state[("version", call.caller)] >= CURRENT else 0)
    return Status.INVALID


def limit(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Return one of the limits."""
    what = call.args.what
    if what < len(_CONSTANTS):
        return Accept(_CONSTANTS[what])
    if what == POOL_PAGES:
        return Accept(state[("pool", call.caller)])
    return Status.INVALID


RULES: Final[Mapping[str, Rule]] = {"version": version, "features": features, "limits": limit}
