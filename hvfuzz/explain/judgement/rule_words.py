"""What each rule means for someone who has never seen the oracles: the weakness, what was forgotten, and the harm."""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple


class Harm(Enum):
    """What a broken rule can do. Evidence in the run decides the rest, see `severity.py`."""

    REACH = "memory of another owner can be reached"
    MAY_REACH = "memory can be reached, of another owner if the frames that are named show it"
    STATE = "the state of another vCPU can be changed"
    LEAK = "contents of another owner can be learnt"
    STOP = "the host stops, or is kept busy, for all domains"
    CONTRACT = "the hypervisor does something else than its contract says"


class RuleWords(NamedTuple):
    """`weakness` is the field's name for it; `forgotten` completes "The hypervisor …"."""

    weakness: str
    forgotten: str
    harm: Harm


_REACH, _MAY_REACH, _STATE, _LEAK, _STOP, _CONTRACT = Harm
_W = RuleWords

_HOST_MEMORY: Final = {
    "free": _W("use of freed memory", "uses a frame that is free", _REACH),
    "freed": _W("use after free", "still uses a table page that it has given back", _REACH),
    "guest": _W("confused deputy", "touches memory of a domain without being asked to", _MAY_REACH),
    "unannounced": _W("stray access", "accesses memory beside the accesses that its code declares", _MAY_REACH),
    "fresh": _W("uninitialised memory", "does not zero a page before it gives it to a domain", _LEAK),
    "scrub": _W("missing scrub", "does not zero a frame before it frees it", _LEAK),
    "poison": _W("missing poison", "does not poison a table page before it gives it back", _CONTRACT),
    "header": _W("heap corruption", "overwrites a header of its heap", _REACH),
    "hole": _W("missing address check", "copies to or from its own addresses for a guest", _REACH),
    "null": _W("null pointer dereference", "does not check a pointer that may be null", _STOP),
    "bounds": _W("out-of-bounds index", "does not check an index against the size of its array", _STOP),
    "fault": _W("wild pointer", "accesses memory that does not exist", _STOP),
    "exception": _W("unhandled exception", "lets an exception leave its exit handler", _STOP),
    "thread": _W("stray thread", "starts a thread that runs beside its vCPUs", _CONTRACT),
}
_PRINCIPAL: Final = {
    "copy": _W("confused deputy", "copies guest memory for another vCPU than the one that asked", _REACH),
    "call": _W("confused deputy", "makes a call in the name of another vCPU than the one that asked", _CONTRACT),
    "step": _W("confused deputy", "changes the state of a domain that did not ask", _CONTRACT),
    "injection": _W("misdirected injection", "gives an exception or a register to another vCPU", _STATE),
    "state": _W("misdirected write", "changes control state of another vCPU", _STATE),
    "translation": _W("wrong address space", "translates by the page tables of another vCPU", _MAY_REACH),
    "access": _W("missing permission check", "lets an access through that the page tables refuse", _MAY_REACH),
    "walk": _W("wrong page walk", "lets the processor walk tables otherwise than the manuals say", _MAY_REACH),
    "cached": _W("wrong cached translation", "lets the processor cache what the page tables do not say", _MAY_REACH),
}
_FETCH: Final = {
    "twice": _W("double fetch", "reads an argument from guest memory again after it was checked", _CONTRACT),
    "translated": _W("wrong translation", "copies from or to a place where the guest's tables do not lead", _REACH),
    "asked": _W("wrong argument", "reads another number or struct than the guest passed", _CONTRACT),
    "crossing": _W("copy across a page boundary", "does not translate the second page of a copy", _REACH),
    "unvalidated": _W("missing address check", "copies at an address that no guest may name", _REACH),
    "privilege": _W("missing privilege check", "carries out a call that the caller may not make", _CONTRACT),
    "version": _W("missing version check", "carries out a call that is newer than the domain's ABI", _CONTRACT),
    "re-entrancy": _W("re-entrance", "handles an exit in the middle of another one", _CONTRACT),
}
_EXITS: Final = {
    "registers": _W("wrong register after an exit", "leaves another value in a register than it should", _CONTRACT),
    "entry": _W("invalid guest state", "leaves guest state with which VM entry fails", _STOP),
    "fault": _W("wrong fault", "does not give the guest the exception that it should", _CONTRACT),
    "device": _W("wrong device state", "leaves a device in another state than its registers say", _CONTRACT),
    "dma": _W("wrong DMA", "lets a device access memory that nobody asked it to", _MAY_REACH),
    "answer": _W("wrong DMA data", "lets a device write other bytes than it should", _CONTRACT),
    "model": _W("wrong device model", "changes a device model as the real device would not", _CONTRACT),
    "ring": _W("unchecked ring index", "does not check an index that the guest can change", _MAY_REACH),
    "others": _W("wrong device", "changes a device that the access does not concern", _CONTRACT),
    "control": _W("lost control of the guest", "changes what keeps the guest under its control", _CONTRACT),
    "call": _W("lost or repeated call", "does not make exactly the one call that was asked for", _CONTRACT),
    "string": _W("string I/O without checks", "moves elements that the guest's ring may not move", _MAY_REACH),
    "interrupt": _W(
        "wrong interrupt", "changes an interrupt controller that it should not, or loses an interrupt", _CONTRACT
    ),
    "clock": _W("clock too exact", "lets a guest read a clock that goes back or is too exact", _LEAK),
}
_WORK: Final = {
    "preemption": _W("unbounded work", "does not offer to be preempted while it works through a long list", _STOP),
    "heap": _W("unbounded allocation", "does not limit how much host memory a guest can make it allocate", _STOP),
    "growth": _W("unbounded growth", "does not limit what a guest can store in the host", _STOP),
    "time": _W("unbounded time", "takes longer than what it does explains", _STOP),
    "turns": _W("unbounded loop", "does not bound the turns of a loop", _STOP),
    "entries": _W("unbounded work", "writes too many table entries without offering to be preempted", _STOP),
    "units": _W("uncounted work", "does work that its own account of work leaves out", _STOP),
    "hang": _W("endless loop", "never returns to the guest", _STOP),
}
_OWNERSHIP: Final = {
    "free": _W("mapping of a free frame", "leaves a free frame mapped", _REACH),
    "hypervisor": _W("mapping of hypervisor memory", "maps a frame of its own", _REACH),
    "table": _W("mapping of a page table", "maps a page of the tables that the hardware walks", _REACH),
    "pool": _W("mapping of a table page", "maps a page that will be used as a page table", _REACH),
    "foreign": _W("mapping of a foreign frame", "maps a frame of another domain without a grant", _REACH),
    "rights": _W("excessive rights", "gives a mapping rights that its grant does not give", _REACH),
    "reserved": _W("mapping of reserved memory", "maps memory that is reserved for a device", _REACH),
    "registers": _W("mapping of device registers", "maps registers of a device for a domain without it", _REACH),
    "nowhere": _W("mapping of no memory", "maps an address at which there is no memory", _CONTRACT),
    "tree": _W("damaged page table", "links a page that is not a table", _REACH),
    "entry": _W("malformed table entry", "writes a table entry with wrong bits", _REACH),
    "pointer": _W("wrong EPT pointer", "lets a vCPU use tables that are not its domain's", _REACH),
    "context": _W("wrong context entry", "lets a device use tables that are not its domain's", _REACH),
    "access": _W("access to foreign memory", "has let an access to memory of another owner happen", _REACH),
    "initiator": _W("confused deputy", "starts a device of another domain", _MAY_REACH),
    "mmio": _W("access to a foreign device", "lets a guest reach a device that it does not have", _REACH),
    "moment": _W("wrong order of writes", "gives rights for a moment that nobody may have", _MAY_REACH),
    "quiet": _W("wrong order at hand-over", "does not reset a device while nobody can use it", _LEAK),
    "copy": _W("confused deputy", "copies memory that the caller may not access", _REACH),
}
_STALE: Final = {
    "leaf": _W("freed while mapped", "frees a frame, or drops its count, while it is still mapped", _REACH),
    "order": _W("flush before the write", "flushes a translation before it changes the entry", _MAY_REACH),
    "unflushed": _W("missing flush", "does not flush what it has taken away", _REACH),
    "tlb": _W("stale TLB entry", "does not flush the TLB after it has taken a page away", _REACH),
    "iotlb": _W("stale IOTLB entry", "does not flush the IOTLB after it has taken a page away", _REACH),
    "structure": _W("stale paging-structure cache", "does not flush the paging-structure caches", _REACH),
    "invalidation": _W("wrong invalidation", "drops other cached translations than the guest asked for", _MAY_REACH),
    "remapping": _W("wrong DMA remapping", "lets the IOMMU translate otherwise than its manual says", _MAY_REACH),
    "context": _W("stale context-cache entry", "does not flush the context cache", _REACH),
}
_RECOUNT: Final = {
    "maps": _W("wrong reference count", "does not count the mappings of a frame correctly", _CONTRACT),
    "pins": _W("wrong reference count", "does not count the grant mappings of a frame correctly", _CONTRACT),
    "uncounted": _W("wrong order of counting", "maps a frame before it counts the mapping", _CONTRACT),
    "grants": _W("wrong reference count", "does not count the grants of a frame correctly", _CONTRACT),
    "state": _W("wrong frame state", "does not keep the state of a frame up to date", _CONTRACT),
    "entry": _W("wrong pin count", "does not count the mappings of a grant correctly", _CONTRACT),
    "handle": _W("dangling handle", "keeps a grant mapping without its grant", _CONTRACT),
    "pool": _W("lost table page", "loses a page of a domain's pool, or has it twice", _CONTRACT),
    "need": _W("needless refusal", "refuses a call for want of table pages that it does not need", _CONTRACT),
    "denied": _W("ignored shortage", "carries on although there is no memory for what it does", _CONTRACT),
    "size": _W("split superpage", "splits a large page that it need not split", _CONTRACT),
    "empty": _W("empty table", "leaves an empty table linked", _CONTRACT),
    "free": _W("damaged free list", "loses a free frame, or has a used one in its free list", _REACH),
}
_SECRETS: Final = {
    "load": _W("information leak", "lets a guest read a secret", _LEAK),
    "register": _W("information leak", "leaves a secret in a register of the guest", _LEAK),
    "copied": _W("information leak", "copies a secret to a guest", _LEAK),
    "sent": _W("information leak", "sends a secret out of a port or console", _LEAK),
    "dma": _W("information leak", "lets a device read or keep a secret", _LEAK),
    "canary": _W("information leak", "gives a frame to a domain that still holds a secret", _LEAK),
    "residue": _W("uninitialised memory", "gives a frame to a domain that is not zero", _LEAK),
    "device": _W("device not reset", "gives a device to a domain with state of its last user", _LEAK),
}
_SPECIFICATION: Final = {
    "dispatch": _W("missing check at dispatch", "carries out a call that it must refuse, or refuses one", _CONTRACT),
    "args": _W("wrong arguments", "uses other arguments than it has fetched", _CONTRACT),
    "status": _W("missing check", "does not check what its contract says", _CONTRACT),
    "result": _W("wrong result", "returns another result than its contract says", _CONTRACT),
    "fetched": _W("needless fetch", "reads guest memory that the call does not need", _CONTRACT),
    "moved": _W("wrong copy", "moves other bytes than the call names", _MAY_REACH),
    "written": _W("wrong output", "writes other bytes to guest memory than it should", _CONTRACT),
    "fresh": _W("wrong allocation", "takes other frames than the call needs", _CONTRACT),
    "privilege": _W("privilege escalation", "makes a domain privileged", _REACH),
    "nested": _W("wrong batch", "does not carry out the entries of a multicall one by one", _CONTRACT),
    "time": _W("wrong time", "does not let the time pass that the call takes", _CONTRACT),
    "change": _W("change without a call", "changes state although no call asked for it", _CONTRACT),
    "state": _W("state without sense", "is in a state that its contract does not know", _CONTRACT),
}
_CELL: Final = _W("wrong effect", "changes more or less than the call says", _CONTRACT)
"""For the rules of the specification that name a kind of cell."""
_CONTENTS: Final = {
    "foreign": _W("memory corruption", "changes memory of a domain that did not ask for it", _REACH),
    "taken": _W("information leak", "reads memory of a domain that did not ask for it", _LEAK),
    "host": _W("memory corruption", "lets its own memory be overwritten", _REACH),
    "canary": _W("memory corruption", "lets a secret word of its own be overwritten", _REACH),
    "free": _W("write after free", "leaves something else in a free frame than it should hold", _LEAK),
    "reserved": _W("reserved memory not cleared", "does not clear the memory that is reserved for a device", _LEAK),
}
_AUDIT: Final = _W("inconsistent state", "leaves state that contradicts itself", _CONTRACT)
_NONINTERFERENCE: Final = _W("side channel", "lets a domain notice what another domain does or holds", _LEAK)
_LAWS: Final = _W("broken law", "gives two different results for what is the same", _CONTRACT)
_PROCESS: Final = _W("death of the host", "ends its own process, or blocks it for ever", _STOP)
_WHOLE: Final = {
    "audit": _AUDIT,
    "host_process": _PROCESS,
    "noninterference": _NONINTERFERENCE,
    "laws": _LAWS,
    "specification": _CELL,
}
"""Oracle -> the words for those of its rules that have none of their own."""

RULE_WORDS: Final = MappingProxyType(
    {
        f"{oracle}/{rule}": words
        for oracle, rules in (
            ("host_memory", _HOST_MEMORY),
            ("principal", _PRINCIPAL),
            ("fetch", _FETCH),
            ("exits", _EXITS),
            ("work", _WORK),
            ("ownership", _OWNERSHIP),
            ("stale", _STALE),
            ("recount", _RECOUNT),
            ("secrets", _SECRETS),
            ("specification", _SPECIFICATION),
            ("contents", _CONTENTS),
        )
        for rule, words in rules.items()
    }
)
"""oracle/rule -> its words."""


def words_of(oracle: str, rule: str) -> RuleWords:
    """The words for a rule. A rule of the audit that names that of another oracle (`oracle.rule`) has that one's."""
    if oracle == "audit" and "." in rule:
        oracle, _, rule = rule.partition(".")
    known = RULE_WORDS.get(f"{oracle}/{rule.partition(':')[0]}")
    return known or _WHOLE.get(oracle, _AUDIT)
