"""Hypercall dispatch: check privilege, number, header and struct, run the call's `check`, then apply its steps.

The contract fixes this order. The first failure is returned, and a refused call changes nothing. Steps are applied
only here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hvfuzz.abi.decode import check_header, decode_body
from hvfuzz.abi.limits import HEADER_SIZE
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import NO_WORK, Refused, Step
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.registers import RAX, RIP, Reg

if TYPE_CHECKING:
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

OK = Status.OK  # a member of an enumeration takes ten times as long to look up as a global
RDX = int(Reg.RDX)
RDI = int(Reg.RDI)

USER_MODE = Refused(Status.NOT_PERMITTED, "called from user mode")
UNKNOWN = Refused(Status.NO_CALL, "unknown number")
NOT_YET = Refused(Status.NO_CALL, "newer than the domain")
UNPRIVILEGED = Refused(Status.NOT_PERMITTED, "control domain only")
HEADER_FAULT = Refused(Status.FAULT, "header unreadable")
HEADER_INVALID = Refused(Status.INVALID, "header")
HEADER_TOO_NEW = Refused(Status.TOO_NEW, "version of the struct")
BODY_FAULT = Refused(Status.FAULT, "struct unreadable")
BODY_TOO_NEW = Refused(Status.TOO_NEW, "struct says more than is known")


def vmcall(hv: Hypervisor, vcpu: VCpu) -> None:
    """Handle a VMCALL exit: number in RAX, struct address in RDI; returns the status in RAX and the result in RDX."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    status, result = call(hv, vcpu, saved[RAX], saved[RDI])
    saved[RAX] = status & U64  # `status.word`, inlined for speed
    saved[RDX] = result
    saved[RIP] = saved[RIP] + vmcs.length & U64


def call(hv: Hypervisor, vcpu: VCpu, number: int, pointer: int) -> tuple[Status, int]:
    """Make one hypercall for `vcpu`, with its argument struct at `pointer`; returns (status, result)."""
    caller = hv.domains[vcpu.domain]
    declaration = hv.abi.by_number.get(number)
    refusal = entitlement(vcpu, caller, declaration)
    if refusal is not None or declaration is None:
        return refuse(hv, vcpu, declaration, refusal or UNKNOWN)
    args = fetch_arguments(hv, vcpu, caller, declaration, pointer)
    if type(args) is Refused:
        return refuse(hv, vcpu, declaration, args)
    observer = hv.host.observer
    observer.call_started(vcpu, declaration, args)
    effect = args.check(hv, caller, vcpu)
    if type(effect) is Refused:
        status, reason = effect
        observer.call_finished(vcpu, declaration, args, status, 0, reason)
        return status, 0
    steps, result, finish = effect
    if declaration.long:
        commit_long(hv, steps)
    else:
        commit(hv, steps)
    status, reason = OK, ""
    if finish is not None:
        status, result = finish(hv)
        reason = "" if status is OK else "on the way"
    observer.call_finished(vcpu, declaration, args, status, result, reason)
    return status, result


def entitlement(vcpu: VCpu, caller: Domain, declaration: Declaration | None) -> Refused | None:
    """Why the caller may not make the call, or None. Guest memory is not read before this check."""
    # Without this check, a process could act with the rights of its kernel (cf. Xen, `hvm_hypercall`).
    if vcpu.cpl:
        return USER_MODE
    if declaration is None:
        return UNKNOWN
    # A domain sees only the calls of its negotiated version, as on a hypervisor of that version.
    if declaration.since > caller.version:
        return NOT_YET
    # Without this check, any guest could reassign other guests' devices (cf. Xen, `xsm_domctl`).
    if declaration.privileged and not caller.privileged:
        return UNPRIVILEGED
    return None


def fetch_arguments(hv: Hypervisor, vcpu: VCpu, caller: Domain, declaration: Declaration, pointer: int) -> Any:
    """Fetch header, then body; returns an instance of the declaring class, or Refused.

    The header is not fetched again, so the guest cannot change its size after the check.
    """
    version = caller.version
    header = guest_access.copy_from_guest(hv, vcpu, pointer, HEADER_SIZE)
    if header is None:
        return HEADER_FAULT
    claimed = check_header(header, version)
    if type(claimed) is not tuple:
        return HEADER_INVALID if claimed is Status.INVALID else HEADER_TOO_NEW
    size, version = claimed
    rest = size - HEADER_SIZE
    body = guest_access.copy_from_guest(hv, vcpu, pointer + HEADER_SIZE, rest) if rest else b""
    if body is None:
        return BODY_FAULT
    args = decode_body(declaration, version, body)
    return BODY_TOO_NEW if isinstance(args, Status) else args


def refuse(hv: Hypervisor, vcpu: VCpu, declaration: Declaration | None, refusal: Refused) -> tuple[Status, int]:
    """End a call that is refused before its `check` runs."""
    status, reason = refusal
    hv.observer.call_started(vcpu, declaration, None)
    hv.observer.call_finished(vcpu, declaration, None, status, 0, reason)
    return status, 0


def commit(hv: Hypervisor, steps: Sequence[Step]) -> None:
    """Apply the steps of an effect, in order."""
    observer = hv.host.observer
    for step in steps:
        observer.step(step)
        step.apply(hv)
        observer.stepped(step)


def commit_long(hv: Hypervisor, steps: Sequence[Step]) -> None:
    """Apply the steps of an effect, in order, with a preemption point after each quota of work."""
    observer = hv.host.observer
    quota = hv.preemption_quota
    done = 0
    for step in steps:
        work: int = getattr(step, "work", NO_WORK)
        if done and done + work > quota:
            preempt(hv)
            done = 0
        done += work
        observer.step(step)
        step.apply(hv)
        observer.stepped(step)


def preempt(hv: Hypervisor) -> None:
    """Preemption point: charge an exit and an entry to the clock; the call continues where it was.

    Other vCPUs run guest code here, and devices act. Their exits wait: the host's lock is held.
    """
    hv.machine.clock.cycles += Cost.VMENTRY + Cost.VMEXIT
    hv.observer.preemption_point()
    hv.machine.preemptions.before()
