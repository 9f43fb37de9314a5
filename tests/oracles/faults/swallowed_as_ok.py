"""A fault of the host is swallowed, and the call ends as OK."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor import hypercalls
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.ipc import event_channels


def replacement(hv, vcpu, number, pointer):
    caller = hv.domains[vcpu.domain]
    declaration = hypercalls.ABI.by_number.get(number)
    refusal = dispatch.entitlement(vcpu, caller, declaration)
    if refusal is not None or declaration is None:
        return dispatch.refuse(hv, vcpu, declaration, refusal or dispatch.UNKNOWN)
    args = dispatch.fetch_arguments(hv, vcpu, caller, declaration, pointer)
    if type(args) is Refused:
        return dispatch.refuse(hv, vcpu, declaration, args)
    observer = hv.host.observer
    observer.call_started(vcpu, declaration, args)
    try:
        if declaration.name == "event.send":
            event_channels.port_entry(caller, args.port)
        effect = args.check(hv, caller, vcpu)
    except HostFault:
        return Status.OK, 0
    if type(effect) is Refused:
        status, reason = effect
        observer.call_finished(vcpu, declaration, args, status, 0, reason)
        return status, 0
    steps_, result, finish = effect
    (dispatch.commit_long if declaration.long else dispatch.commit)(hv, steps_)
    status, reason = Status.OK, ""
    if finish is not None:
        status, result = finish(hv)
    observer.call_finished(vcpu, declaration, args, status, result, reason)
    return status, result


BUG = Bug(
    name="swallowed-as-ok",
    replaces="hvfuzz.hypervisor.core.dispatch:call",
    replacement=replacement,
    findings=("exits/call/event.send",),
    trigger="""\
# hvp 1
world pair
event.send(dom1, port=5)
sched.yield(dom1)
multicall(dom1, count=2)
  sched.yield(dom1)
  memory.populate(dom1, first=0x200, count=1, order=0)
cpuid(dom1, leaf=0)
""",
)
