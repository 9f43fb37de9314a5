"""A long call does not tell when its steps are done, so that what they changed is not judged until the call ends."""

from hvfuzz.bugs import Bug


def replacement(hv, steps):
    for step in steps:
        hv.host.observer.step(step)
        step.apply(hv)
        if len(steps) > 1:
            continue
        hv.host.observer.stepped(step)


BUG = Bug(
    name="step-end-untold",
    replaces="hvfuzz.hypervisor.core.dispatch:commit_long",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x50, count=2)
""",
)
