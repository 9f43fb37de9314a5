"""Every event that an oracle can listen to, with its parameters and its meaning.

The `vcpu` of each event is the one whose exit is being handled, whatever the hypervisor says: see
`principal.attribution`.

An oracle, or one of its watchers, listens to an event by defining a method of that name with exactly these parameters.
An event without listeners costs nothing. Within an event, the order is: the call stack, the access filter, the oracles
in the order of `all_oracles.ORACLES`, the close watchers, then the other observers.

The fixed methods of every oracle (`attach`, `reset`, `audit`, `host_exception`) are described in `oracle.Oracle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Event(NamedTuple):
    """The parameters of the listeners, as they stand in a `def`, and when the event happens."""

    parameters: str
    meaning: str


EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        # The program.
        "op_finished": Event("", "the op and its races are done, and `shadow_changed` was raised if it applies"),
        "race_started": Event("vcpu", "`vcpu` is about to act in the middle of another one's op, or right after it"),
        "race_finished": Event("vcpu", "it has acted, unless it has found the host busy"),
        "device_started": Event("number", "a device is about to act by itself, perhaps in the middle of an exit"),
        "device_finished": Event("number", "it has acted"),
        # VM exits.
        "exit_started": Event("vcpu", "the hypervisor is about to handle a VM exit"),
        "trap_started": Event("vcpu", "after `exit_started`, if the exit is not a hypercall"),
        "trap_finished": Event("vcpu", "after `exit_finished`, if the exit is not a hypercall"),
        "exit_finished": Event("vcpu", "the hypervisor has handled the exit"),
        "reentrant_exit": Event("vcpu", "a VM exit is to be handled while another one is being handled"),
        "misnamed": Event(
            "rule, vcpu, deed", "the hypervisor does `deed` in the name of `vcpu`, whose exit is not being handled"
        ),
        # Hypercalls. Entries of a multicall nest.
        "call_started": Event(
            "vcpu, declaration, args", "a hypercall was decoded; `args` is None if dispatch refused it"
        ),
        "step": Event("step", "a step of a call is about to be applied"),
        "stepped": Event("step", "the step was applied"),
        "preemption_point": Event("", "the running call could be interrupted here"),
        "shadow_changed": Event("change", "a call or op ended, and tables, frame words or grants differ from before"),
        "unusual_copies": Event(
            "vcpu, declaration, args", "a call ended that copied anything beyond its header and the body behind it"
        ),
        "call_finished": Event(
            "vcpu, declaration, args, status, result, reason", "a call ended, after the two events above"
        ),
        # Frames. A listener that defines only the events of single frames is called for each frame of a block.
        "frame_allocated": Event("hfn, owner, state", "a frame came into use; its frame word is written"),
        "frame_freed": Event("hfn", "a frame became free or went back to a paging pool, scrubbed"),
        "block_allocated": Event("first, owner, state", "512 frames from `first` on came into use at once"),
        "block_freed": Event("first", "512 frames from `first` on became free at once"),
        # Accesses by the hypervisor.
        "host_access": Event("hpa, size, write", "the hypervisor is about to access its own mapping of memory"),
        "guest_copy": Event("vcpu, gva, hpa, size, write", "the hypervisor is about to copy from or to guest memory"),
        "guest_written": Event(
            "", "the bytes of the last `guest_copy` that writes are in memory, and nothing ran since"
        ),
        "invalid_copy": Event("vcpu, gva, hpa, size, write", "a `guest_copy` at an address that no guest may name"),
        "foreign_copy": Event(
            "vcpu, gva, hpa, size, write", "a `guest_copy` that is not within one frame owned by the caller's domain"
        ),
        # Accesses by guests and devices.
        "memory_access": Event("initiator, hpa, size, access", "a vCPU or a device is about to access memory"),
        "dma_or_foreign_access": Event(
            "initiator, hpa, size, access",
            "a `memory_access` by a device, or by a vCPU outside one frame owned by its domain",
        ),
        "guest_load": Event("vcpu, hpa, size", "a `memory_access` by a vCPU that reads"),
    }
)
