"""Judges the firmware's DMAR table, and what boot makes of others. Helper of the oracle `specification`.

The table of this machine is the same in every run and well-formed, so no program shows what a damaged one would do. The
target tries them: see `targets.emulated.firmware_trials`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from hvfuzz.oracles.contract.firmware_tables import MEMORY, PLACE, of_world, trials
from hvfuzz.oracles.contract.spec.platform.firmware import regions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvfuzz.oracles.scene.scene import Scene

Reading: TypeAlias = Mapping[int, range] | str
"""The regions that the hypervisor reads from a table: device -> host frames. Or a text: why it refuses the table."""
REFUSED: Final = "HostFault"
"""How a refusal begins; an exception of another kind is none."""


def table_fault(scene: Scene) -> str | None:
    """How the table in memory differs from the one that the world needs."""
    wanted = of_world(scene)
    found = bytes(scene.machine.memory.data[PLACE : PLACE + len(wanted)])
    if found == wanted:
        return None
    at = next(at for at, (is_, should) in enumerate(zip(found, wanted, strict=True)) if is_ != should)
    return f"byte {at} of the DMAR table is {found[at]:#x}, expected {wanted[at]:#x}"


def reading_faults(readings: Mapping[str, Reading]) -> Iterator[str]:
    """A text for each table of which the hypervisor makes something else than it must."""
    for name, table in trials().items():
        if name in readings:
            wanted, found = regions(table + bytes(MEMORY - PLACE - len(table)), MEMORY), readings[name]
            refused = isinstance(found, str) and found.startswith(REFUSED)
            if refused if wanted is None else found == wanted:
                continue
            should = "refused" if wanted is None else f"read as {wanted}"
            yield f"a DMAR table with {name} should be {should}, but gives {found}"
