"""A new window begins whenever an odd one is asked for: never full."""

from hvfuzz.bugs import Bug


def replacement(caller, window):
    return 0


BUG = Bug(
    name="clock-per-vcpu-free",
    replaces="hvfuzz.hypervisor.hypercalls.time:reads_in",
    replacement=replacement,
    findings=("specification/clock_window/time.clock_read",),
    trigger="""\
# hvp 1
world pair
time.clock_read(dom1)
time.clock_read(dom1)
""",
)
