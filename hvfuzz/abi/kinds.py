"""The kinds of hypercall arguments: width, edge values, symbols of the text form, and description.

A field is declared with one of the annotated types at the end (`gfn: GfnArg`), or with `Annotated[int, kind]` if the
call needs a special kind. For mypy each of these types is an int.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, get_args

from hvfuzz.abi import boundary_values as edges
from hvfuzz.abi import limits
from hvfuzz.machine.addresses import SIZE_MASK

WIDTHS = (1, 2, 4, 8)
POINTER = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """The meaning of an argument of `width` bytes.

    `edges` are the values that a fuzzer should try. `consumes` names the resource that the argument must be, which
    another call produces. `names` are its symbols in the text form; they are or-ed together if `flags` is set.

    A kind with an `element` is a guest pointer to an array of such elements, at most `limit` of them (0: no limit). If
    the first elements differ, `head` are their kinds; `record` are the kinds that repeat after the head. `follow` marks
    the pointer to the entries of a multicall, whose calls follow in a program.
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
        """Raise ValueError for a kind that no layout or grammar can use."""
        if self.width not in WIDTHS:
            raise ValueError(f"kind {self.name}: width {self.width} is not one of {WIDTHS}")
        for value in (*self.edges, *self.names.values()):
            if not 0 <= value <= self.maximum:
                raise ValueError(f"kind {self.name}: {value:#x} does not fit {self.width} bytes")
        if self.element is None:
            if self.follow or self.limit or self.head or self.record:
                raise ValueError(f"kind {self.name}: follow, limit, head and record need an element")
        elif self.width != POINTER:
            raise ValueError(f"kind {self.name}: a pointer is {POINTER} bytes wide, not {self.width}")
        elif any(kind.width != self.element.width for kind in self.head + self.record):
            raise ValueError(f"kind {self.name}: the elements of one array have one width")

    @property
    def maximum(self) -> int:
        """The largest value that fits."""
        return SIZE_MASK[self.width]

    def element_at(self, index: int) -> "Kind":
        """The kind of element `index` of the array."""
        if self.element is None:
            raise ValueError(f"kind {self.name} is not a pointer")
        if index < len(self.head):
            return self.head[index]
        if self.record:
            return self.record[(index - len(self.head)) % len(self.record)]
        return self.element

    def sized(self, width: int) -> "Kind":
        """This kind in a field of another width, with its edges truncated to that."""
        mask = SIZE_MASK[width]
        return replace(self, width=width, edges=edges.distinct(*(edge & mask for edge in self.edges)))

    def trying(self, *values: int) -> "Kind":
        """This kind with further edge values, which come first."""
        return replace(self, edges=edges.distinct(*values, *self.edges))

    def named(self, **names: int) -> "Kind":
        """This kind with further symbols, whose values become edges."""
        return replace(self, names={**self.names, **names}).trying(*names.values())


def Flags(*names: str, width: int = 1, doc: str = "") -> Kind:  # noqa: N802 - read as a type in declarations
    """A field of flags: the first name is bit 0, the next bit 1. Edges: each bit, all bits, and bits without a name."""
    bits = {name: 1 << bit for bit, name in enumerate(names)}
    whole = (1 << len(names)) - 1
    full = SIZE_MASK[width]
    values = edges.distinct(0, *bits.values(), whole, (whole + 1) & full, full, 1 << (8 * width - 1))
    return Kind("flags", width, values, names=bits, flags=True, doc=doc)


def Choice(*names: str, width: int = 4, doc: str = "") -> Kind:  # noqa: N802 - read as a type in declarations
    """A field that selects one of several things: the first name is 0, the next 1. Edges go one beyond the last."""
    values = {name: value for value, name in enumerate(names)}
    tried = edges.distinct(*values.values(), len(names), SIZE_MASK[width])
    return Kind("choice", width, tried, names=values, doc=doc)


def Array(  # noqa: N802 - read as a type in declarations
    element: object, *, limit: int = 0, doc: str = "", name: str = "array"
) -> Kind:
    """A guest pointer to an array; `element` is a Kind or an annotated type such as `PortArg`."""
    kind = kind_of(element)
    if kind is None:
        raise TypeError(f"the element of an array must be a Kind or an annotated type, not {element!r}")
    return Kind(name, POINTER, edges.GVA, element=kind, limit=limit, doc=doc)


def kind_of(annotation: object) -> Kind | None:
    """The kind in an annotation, the outermost if there are several; a Kind itself; or None."""
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

# The types of fields.
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
"""Four words (number, args, status, result) for each call of a multicall."""
