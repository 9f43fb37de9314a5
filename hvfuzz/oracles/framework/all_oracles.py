"""All oracles, and the watchers that belong to some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hvfuzz.oracles.accounting.cycles import Cycles
from hvfuzz.oracles.accounting.growth import Growth
from hvfuzz.oracles.accounting.recount import Recount
from hvfuzz.oracles.accounting.table_writes import TableWrites
from hvfuzz.oracles.accounting.turns import Turns
from hvfuzz.oracles.accounting.work import Work
from hvfuzz.oracles.contents.contents import Contents
from hvfuzz.oracles.contents.memory_model import MemoryModel
from hvfuzz.oracles.contract.specification import Specification
from hvfuzz.oracles.exits.exits import Exits
from hvfuzz.oracles.framework.audit import Audit
from hvfuzz.oracles.framework.oracle import Oracle
from hvfuzz.oracles.hardware.invalidations import Invalidations
from hvfuzz.oracles.hardware.requests import Requests
from hvfuzz.oracles.hardware.walks import Walks
from hvfuzz.oracles.host.access_log import AccessLog
from hvfuzz.oracles.host.host_memory import HostMemory
from hvfuzz.oracles.host.host_writes import EACH, HostWrites
from hvfuzz.oracles.isolation.fetch import Fetch
from hvfuzz.oracles.isolation.ownership import Ownership
from hvfuzz.oracles.isolation.secrets import Secrets
from hvfuzz.oracles.isolation.stale import Stale
from hvfuzz.oracles.principal.fills import Fills
from hvfuzz.oracles.principal.principal import Principal
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

# In the order in which they act. Faults of the host itself come first, then actions in a wrong name: what follows from
# such a fault matters less.
ORACLES: Final[tuple[type[Oracle], ...]] = (
    HostMemory,
    Principal,
    Fetch,
    Exits,
    Work,
    Ownership,
    Stale,
    Recount,
    Secrets,
    Specification,
    Contents,
    Audit,
)
NAMES: Final = tuple(oracle.name for oracle in ORACLES)
CLOSE_WATCHERS: Final = (MemoryModel, AccessLog, Growth, Cycles, Turns, TableWrites, Walks, Fills)
"""Helpers that act in audited runs only, because they are slow. Each reports rules of the oracle that it names;
`HostWrites`, which is one of them, reports rules of several.

The memory model comes first: it hooks memory itself, and the access log hooks what it finds. `Walks` and `Fills` hook
the MMU likewise."""
LAST_WATCHERS: Final = (Invalidations, Requests)
"""Close watchers that hook what `HostWrites` has hooked."""
CloseWatcher = (
    MemoryModel
    | AccessLog
    | Growth
    | Cycles
    | Turns
    | TableWrites
    | Walks
    | Fills
    | HostWrites
    | Invalidations
    | Requests
)


def make_oracles(scene: Scene, shadow: PageTableShadow, enabled: frozenset[str] | None) -> dict[str, Oracle]:
    """The oracles named in `enabled` (all, if None), by name; ValueError for a name that no oracle has."""
    unknown = sorted(enabled - set(NAMES)) if enabled is not None else []
    if unknown:
        raise ValueError(f"no oracle {unknown[0]!r} (known: {', '.join(NAMES)})")
    return {oracle.name: oracle(scene, shadow) for oracle in ORACLES if enabled is None or oracle.name in enabled}


def make_close_watchers(scene: Scene, shadow: PageTableShadow, oracles: Mapping[str, Oracle]) -> list[CloseWatcher]:
    """The close watchers that belong to these oracles."""
    watchers: list[CloseWatcher] = [watcher(scene, shadow) for watcher in CLOSE_WATCHERS if watcher.oracle in oracles]
    if not oracles.keys().isdisjoint(EACH):
        watchers.append(HostWrites(scene, shadow, oracles))
    watchers += [watcher(scene, shadow) for watcher in LAST_WATCHERS if watcher.oracle in oracles]
    return watchers
