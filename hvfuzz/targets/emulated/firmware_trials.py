"""What the hypervisor makes of DMAR tables that this firmware does not have, for the oracles to judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.hypervisor.core.host import HostMemory
from hvfuzz.hypervisor.memory import rmrr
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.contract.firmware_tables import MEMORY, PLACE, trials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hvfuzz.oracles.contract.firmware_checks import Reading


def readings() -> Mapping[str, Reading]:
    """Name of each table -> the regions that the hypervisor reads from it, or the exception by which it refuses it."""
    machine = Machine(MEMORY)
    host = HostMemory(machine)
    found: dict[str, Reading] = {}
    for name, table in trials().items():
        machine.memory.fill(0)
        machine.memory.write(PLACE, table)
        try:
            found[name] = rmrr.read_regions(host, PLACE)
        except Exception as fault:  # an oracle tells a refusal from a failure
            found[name] = f"{type(fault).__name__}: {fault}"
    return found
