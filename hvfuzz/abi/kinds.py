"""The kinds of hypercall arguments: their width, and what a fuzzer, a reader and the text form know of them.

A field is declared with one of the annotated types at the end (`gfn: GfnArg`), or with `Annotated[int, kind]`
where a call wants a kind of its own. For mypy each of them is an int.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, get_args

from hvfuzz.abi import edges, limits

WIDTHS = (1, 2, 4, 8)
POINTER = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """What an argument of `width` bytes stands for.

    `edges` are the values that are worth trying. `consumes` names the resource that it takes (the `produces`
    of some other call); `names` are its symbols in the text form, or-ed together if `flags`.

    With an `element` it is a guest pointer to an array of these: at most `limit` of them are of use (0: no
    bound known), `head` are the kinds of the first ones if they differ, and `record` are those that repeat
    after the head. `follow` marks the pointer whose array is the batch of calls that follow in a program.
    """

    name: str
    width: int
    edges: tuple[int, ...] = field(default=(), repr=False)
    consumes: str | None = None
    names: Mapping[str, int] = field(default_factory=dict, hash=False)
    flags: bool = False
    element: "Kind | None" = None
    follow: bool = False
    limit: int = 0
    head: "tuple[Kind, ...]" = ()
    record: "tuple[Kind, ...]" = ()
    doc: str = ""

    def __post_init__(self) -> None:
        """Refuse what no layout or grammar could use, with ValueError."""
        if self.width not in WIDTHS:
            raise ValueError(f"kind {self.name}: width {self.width} is none of {WIDTHS}")
        for value in (*self.edges, *self.names.values()):
            if not 0 <= value <= self.maximum:
                raise ValueError(f"kind {self.name}: {value:#x} does not fit {self.width} bytes")
        if self.element is None:
            if self.follow or self.limit or self.head or self.record:
                raise ValueError(f"kind {self.name}: only a pointer has elements")
        elif self.width != POINTER:
            raise ValueError(f"kind {self.name}: a pointer is {POINTER} bytes wide, not {self.width}")
        elif any(kind.width != self.element.width for kind in self.head + self.record):
            raise ValueError(f"kind {self.name}: the elements of one array have one width")

    @property
    def maximum(self) -> int:
        """The largest value that fits."""
        return (1 << 8 * self.width) - 1

    def element_at(self, index: int) -> "Kind":
        """The kind of element `index` of the array: each word of a ring has a meaning of its own."""
        if self.element is None:
            raise ValueError(f"kind {self.name} is no pointer")
        if index < len(self.head):
            return self.head[index]
        if self.record:
            return self.record[(index - len(self.head)) % len(self.record)]
        return self.element

    def sized(self, width: int) -> "Kind":
        """The same kind in a field of another width: each edge is cut off to it."""
        mask = (1 << 8 * width) - 1
        return replace(self, width=width, edges=edges.distinct(*(edge & mask for edge in self.edges)))

    def trying(self, *values: int) -> "Kind":
        """The same kind for a call that has edge values of its own: these come first."""
        return replace(self, edges=edges.distinct(*values, *self.edges))

    def named(self, **names: int) -> "Kind":
        """The same kind with further symbols, which are edges too."""
        return replace(self, names={**self.names, **names}).trying(*names.values())


def Flags(*names: str, width: int = 1, doc: str = "") -> Kind:  # noqa: N802 - read as a type in declarations
    """A field of flags: the first name is bit 0, and so on; edges are each bit, all, and nameless bits."""
    bits = {name: 1 << bit for bit, name in enumerate(names)}
    whole = (1 << len(names)) - 1
    full = (1 << 8 * width) - 1
    values = edges.distinct(0, *bits.values(), whole, (whole + 1) & full, full, 1 << (8 * width - 1))
    return Kind("flags", width, values, names=bits, flags=True, doc=doc)


def Choice(*names: str, width: int = 4, doc: str = "") -> Kind:  # noqa: N802 - read as a type in declarations
    """A field that selects one of several things: the first name is 0, the next 1; edges go one beyond."""
    values = {name: value for value, name in enumerate(names)}
    tried = edges.distinct(*values.values(), len(names), (1 << 8 * width) - 1)
    return Kind("choice", width, tried, names=values, doc=doc)


def Array(  # noqa: N802 - read as a type in declarations
    element: object, *, limit: int = 0, doc: str = "", name: str = "array"
) -> Kind:
    """A guest pointer to an array; `element` is a Kind or an annotated type such as `PortArg`."""
    kind = kind_of(element)
    if kind is None:
        raise TypeError(f"an array is declared with the kind of its elements, not with {element!r}")
    return Kind(name, POINTER, edges.GVA, element=kind, limit=limit, doc=doc)


def kind_of(annotation: object) -> Kind | None:
    """The kind that an annotation carries, the outermost if several; a Kind stands for itself."""
    if isinstance(annotation, Kind):
        return annotation
    kinds = [extra for extra in get_args(annotation) if isinstance(extra, Kind)]
    return kinds[-1] if kinds else None


GVA = Kind("gva", 8, edges.GVA, doc="guest virtual address")
GFN = Kind("gfn", 8, edges.GFN, doc="guest frame number")
IOVA = Kind("iova", 8, edges.IOVA, doc="device address")
COUNT = Kind("count", 4, edges.COUNT, doc="number of elements")
INDEX = Kind("index", 8, edges.INDEX, doc="index in the array")
ORDER = Kind("order", 1, edges.ORDER, doc="log2 of the number of pages in a block")
RIGHTS = Kind("rights", 1, edges.RIGHTS, names={"R": 1, "W": 2, "X": 4}, flags=True, doc="rights")
DOMAIN = Kind("domain", 2, edges.DOMAIN, names={"SELF": limits.SELF}, doc="domain number")
DEVICE = Kind("device", 2, edges.DEVICE, doc="device number")
VCPU = Kind("vcpu", 4, edges.VCPU, doc="number of a vCPU of the caller")
GRANT_REF = Kind("grant_ref", 4, edges.GRANT_REF, consumes="grant_ref", doc="number of a grant entry")
HANDLE = Kind("handle", 4, edges.HANDLE, consumes="handle", doc="handle of a grant mapping of the caller")
PORT = Kind("port", 4, edges.PORT, consumes="port", doc="number of an event port")
FRAME_OR_REF = Kind(
    "frame_or_ref",
    8,
    edges.distinct(*edges.GFN, *edges.GRANT_REF),
    consumes="grant_ref",
    doc="guest frame number, or number of a grant entry",
)
LENGTH = Kind("length", 4, edges.LENGTH, doc="number of bytes")
OFFSET = Kind("offset", 2, edges.OFFSET, doc="byte offset in the page")
TIMEOUT = Kind("timeout", 8, edges.TIMEOUT, doc="virtual cycles")
CALL_NUMBER = Kind("call_number", 8, edges.boundaries(8), doc="call number")
_U64 = Kind("u64", 8, edges.boundaries(8), doc="number")

# What declarations are written with.
U8 = Annotated[int, Kind("u8", 1, edges.boundaries(1), doc="number")]
U16 = Annotated[int, Kind("u16", 2, edges.boundaries(2), doc="number")]
U32 = Annotated[int, Kind("u32", 4, edges.boundaries(4), doc="number")]
U64 = Annotated[int, _U64]
GvaArg = Annotated[int, GVA]
GfnArg = Annotated[int, GFN]
IovaArg = Annotated[int, IOVA]
Count = Annotated[int, COUNT]
Index = Annotated[int, INDEX]
Order = Annotated[int, ORDER]
Rights = Annotated[int, RIGHTS]
DomainRef = Annotated[int, DOMAIN]
DeviceArg = Annotated[int, DEVICE]
VcpuArg = Annotated[int, VCPU]
GrantRefArg = Annotated[int, GRANT_REF]
HandleArg = Annotated[int, HANDLE]
PortArg = Annotated[int, PORT]
FrameOrRef = Annotated[int, FRAME_OR_REF]
Length = Annotated[int, LENGTH]
Length16 = Annotated[int, LENGTH.sized(2)]
Offset = Annotated[int, OFFSET]
Timeout = Annotated[int, TIMEOUT]
GfnArray = Annotated[int, Array(GFN, limit=limits.EXCHANGE)]
PortArray = Annotated[int, Array(PORT, limit=limits.POLL)]
U64Array = Annotated[int, Array(_U64)]
Bytes = Annotated[int, Array(Kind("byte", 1, edges.boundaries(1), doc="byte"), name="bytes")]
DmaRing = Annotated[
    int,
    replace(
        Array(IOVA, name="ring"),
        limit=1 + 3 * limits.BATCH,
        head=(COUNT.trying(limits.BATCH, limits.BATCH + 1).sized(8),),
        record=(IOVA, IOVA, LENGTH.sized(8)),
    ),
]
"""One word with the number of requests, then (from, to, length) words for each."""
CallEntries = Annotated[
    int,
    replace(
        Array(GVA, name="entries"),
        limit=4 * limits.MULTICALL,
        record=(CALL_NUMBER, GVA, _U64, _U64),
        follow=True,
    ),
]
"""Four words (number, args, status, result) for each of the calls that follow in a program."""
