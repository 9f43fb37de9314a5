"""A handle that was released is not used again: it stays in the table, without sides."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.ipc.grants import HOST


def set_sides(domain, handle, mapping, sides):
    """Keep a mapping without sides."""
    if sides == HOST or not sides:
        domain.handles[handle] = mapping._replace(host=bool(sides), device=False, iova=0)
    else:
        domain.handles[handle] = mapping._replace(host=False, gfn=0)


BUG = Bug(
    name="handles-never-reused",
    title="a released handle stays in use",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:set_sides",
    replacement=set_sides,
    findings=("laws/undo/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0)
""",
)
