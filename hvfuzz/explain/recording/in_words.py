"""Parts of moments in words: owners, initiators, places, rights."""

from __future__ import annotations

from hvfuzz.explain.recording.recorded_moments import Cached, Dropped, TableEntry, Who
from hvfuzz.hypervisor.memory.frames import OWNER_HYPERVISOR, OWNER_NONE, FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, U64, rights_text
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA, DMA_RIGHTS, EPT_RIGHTS, is_link


def owner_name(owner: int, state: int) -> str:
    """The owner of a frame in words, with what the frame is used for if that is not just memory of a domain."""
    match state:
        case FrameState.FREE:
            return "nobody: it is free"
        case FrameState.HYPERVISOR:
            return "the hypervisor"
        case FrameState.TABLE:
            return f"the hypervisor, as a page table of dom{owner}"
        case FrameState.POOL:
            return f"the hypervisor, as a spare page table of dom{owner}"
        case FrameState.RESERVED:
            return f"a device of dom{owner}, which it is reserved for" if owner < OWNER_HYPERVISOR else "a device"
    return "the hypervisor" if owner == OWNER_HYPERVISOR else "nobody" if owner == OWNER_NONE else f"dom{owner}"


def who_text(who: Who) -> str:
    """A vCPU or a device in words."""
    if who.device:
        return f"{who.device} of dom{who.domain}" if who.domain >= 0 else who.device
    return f"vCPU {who.vcpu} of dom{who.domain}"


def place_of(space: int, page: int) -> str:
    """A page of a space in words: a GPA of a domain, or an IOVA of its devices."""
    name = "iova" if space & DMA else "gpa"
    whose = f"the devices of dom{space & ~DMA}" if space & DMA else f"dom{space}"
    return f"{name} {page << PAGE_SHIFT:#x} of {whose}"


def entry_text(space: int, entry: TableEntry) -> str:
    """What an entry of a table says: not present, the next table, or a frame with rights."""
    rights = entry.entry & (DMA_RIGHTS if space & DMA else EPT_RIGHTS)
    if not rights:
        return "not present"
    frame = (entry.entry & ADDRESS) >> PAGE_SHIFT
    if is_link(entry.entry, entry.level):
        return f"table in frame {frame:#x}"
    large = f", {4 << 9 * (entry.level - 1)} KiB" if entry.level > 1 else ""
    return f"frame {frame:#x}, rights {rights_text(rights)}{large}"


def cached_text(entry: Cached | Dropped) -> str:
    """A cached translation in words."""
    name = {"TLB": "gva", "IOTLB": "iova"}.get(entry.cache, "gpa")
    rights = rights_text(entry.rights)
    return f"{entry.cache}, {name} {entry.page << PAGE_SHIFT & U64:#x} for {who_text(entry.who)}, rights {rights}"
