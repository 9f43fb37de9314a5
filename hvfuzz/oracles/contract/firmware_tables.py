"""DMAR tables: the one that a world needs, and many others, good and damaged, to try a boot with.

Written from the VT-d specification, chapter 8. Each damage is just beyond what is good, and its good neighbour is
there, too. What must be made of a table is for `spec.platform.firmware` to say.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import MAXPHYADDR, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hvfuzz.oracles.scene.scene import Scene

PLACE: Final = 0x800
"""Hpa of the table."""
REGISTERS: Final = 0xFED9_0000
"""Hpa of the registers of the IOMMU."""
MEMORY: Final = 1 << 20
"""Bytes of memory of a machine on which tables are tried."""
IDS: Final = b"HVFUZZhvfuzz01" + (1).to_bytes(4, "little") + b"hvfz" + (1).to_bytes(4, "little")
"""OEM and creator ids of this firmware."""
DEVICE: Final = 0x28


def _fields(*values: tuple[int, int]) -> bytes:
    """(value, bytes) one after another, little-endian."""
    return b"".join(value.to_bytes(size, "little") for value, size in values)


def table(body: bytes, length: int | None = None, signature: bytes = b"DMAR", sum_: int = 0) -> bytes:
    """A table of these structures (8.1), with this length field, whose bytes add up to `sum_`."""
    head = signature + _fields((48 + len(body) if length is None else length, 4), (1, 1))
    tail = IDS + _fields((MAXPHYADDR - 1, 1), (0, 1)) + bytes(10) + body
    return head + bytes([sum_ - sum(head + tail) & 0xFF]) + tail


def scope(bdf: int = DEVICE, kind: int = 1, path: bytes | None = None, long: int | None = None) -> bytes:
    """A device scope (8.3.1)."""
    steps = bytes([bdf >> 3 & 0x1F, bdf & 7]) if path is None else path
    return _fields((kind, 1), (6 + len(steps) if long is None else long, 1), (0, 3), (bdf >> 8, 1)) + steps


def unit(scopes: bytes = b"", segment: int = 0, registers: int = REGISTERS) -> bytes:
    """The IOMMU of all devices (8.3)."""
    return _fields((0, 2), (16 + len(scopes), 2), (1, 1), (0, 1), (segment, 2), (registers, 8)) + scopes


def region(first: int, end: int, scopes: bytes | None = None, segment: int = 0) -> bytes:
    """Memory from address `first` to before `end`, for the devices of these scopes (8.4)."""
    named = scope() if scopes is None else scopes
    limit = end - 1 & (1 << 64) - 1
    return _fields((1, 2), (24 + len(named), 2), (0, 2), (segment, 2), (first, 8), (limit, 8)) + named


def other(kind: int, size: int, long: int | None = None) -> bytes:
    """A structure of another type (8.2)."""
    return (_fields((kind, 2), (size if long is None else long, 2)) + bytes(size))[:size]


def of_world(scene: Scene) -> bytes:
    """The table that firmware must have written for the world."""
    devices, reserved = scene.machine.devices, scene.world.reserved
    regions = (
        region(base, base + (pages << PAGE_SHIFT), scope(devices[number].bdf)) for number, base, pages in reserved
    )
    return table(unit() + b"".join(regions))


@cache
def trials() -> Mapping[str, bytes]:
    """Name -> table."""
    page, last = PAGE_SIZE, MEMORY - PAGE_SIZE
    plain = unit() + region(page, 2 * page)
    found = {
        "no region": table(unit()),
        "a region": table(plain),
        "nothing": table(b""),
        "another signature": table(plain, signature=b"DMAS"),
        "a wrong sum": table(plain, sum_=1),
        "a sum of 0x80": table(plain, sum_=0x80),
        "a length within the header": table(b"", length=47),
        "no length": table(plain, length=0),
        "a length beyond memory": table(plain, length=MEMORY),
        "a length to the end of memory": table(plain, length=MEMORY - PLACE),
        "a length beyond the structures": table(plain, length=48 + len(plain) + 4),
    }
    bodies: dict[str, bytes | Iterable[bytes]] = {
        "two IOMMUs": unit() + unit(),
        "no IOMMU": region(page, 2 * page),
        "the region first": region(page, 2 * page) + unit(),
        "an IOMMU in segment 1": unit(segment=1),
        "an IOMMU at no page": [unit(registers=REGISTERS + at) for at in (1, 8, 0x800, PAGE_SIZE - 1, PAGE_SIZE)],
        "an IOMMU cut short": [unit()[:2] + _fields((size, 2)) + unit()[4:size] for size in (4, 8, 15)],
        "scopes of an IOMMU": [
            unit(scope()),
            unit(scope() + scope(0x30)),
            unit(scope(kind=3)),
            unit(scope(path=bytes(4))),
        ],
        "scopes of an IOMMU cut short": [unit(scope()[:size]) for size in (1, 2, 6, 7)],
        "scopes of an IOMMU that are too long": [unit(scope(long=9)), unit(scope(long=7)), unit(scope() + b"\1")],
        "a region in segment 1": unit() + region(page, 2 * page, segment=1),
        "a region in segment 0x100": unit() + region(page, 2 * page, segment=0x100),
        "a region that is no page": [
            unit() + region(page + at, 2 * page + to) for at in (0, 1, 0x800) for to in (0, 1, 0x800, PAGE_SIZE)
        ],
        "a region of pages": unit() + region(page, 7 * page),
        "an empty region": unit() + region(page, page),
        "a region backwards": unit() + region(3 * page, 2 * page),
        "the first page": unit() + region(0, page),
        "a region to the end of memory": unit() + region(last, MEMORY),
        "a region beyond memory": [unit() + region(last, MEMORY + page), unit() + region(MEMORY, MEMORY + page)],
        "a region of the last page of all": unit() + region((1 << 64) - page, 1 << 64),
        "a region of no device": unit() + region(page, 2 * page, b""),
        "a region cut short": [unit() + region(0, page)[:2] + _fields((size, 2)) + bytes(size - 4) for size in (4, 23)],
        "a region of a bridge": unit() + region(page, 2 * page, scope(kind=2)),
        "a region of no type": unit() + region(page, 2 * page, scope(kind=0)),
        "a region behind a bridge": unit() + region(page, 2 * page, scope(path=bytes([1, 0, 2, 0]))),
        "a region of a longer path": unit() + region(page, 2 * page, scope(path=bytes([1, 0, 2]))),
        "the last device of the last bus": unit() + region(page, 2 * page, scope(0xFFFF)),
        "a device beyond the bus": unit() + region(page, 2 * page, scope(path=bytes([32, 0]))),
        "a function beyond the device": unit() + region(page, 2 * page, scope(path=bytes([4, 8]))),
        "a scope cut short": [unit() + region(page, 2 * page, scope()[:size]) for size in (1, 2, 6, 7)],
        "a second scope cut short": [unit() + region(page, 2 * page, scope() + scope(0x30)[:size]) for size in (1, 7)],
        "a scope of no length": unit() + region(page, 2 * page, scope(long=0)),
        "a scope that is too long": unit() + region(page, 2 * page, scope(long=9)),
        "one region of two devices": unit() + region(page, 2 * page, scope() + scope(0x30)),
        "one device twice": unit() + region(page, 2 * page) + region(4 * page, 5 * page),
        "regions side by side": [
            unit() + region(3 * page, 5 * page) + region(at * page, (at + 2) * page, scope(0x30)) for at in (1, 5)
        ],
        "regions that meet": [
            unit() + region(3 * page, 5 * page) + region(at * page, (at + 2) * page, scope(0x30)) for at in (2, 3, 4)
        ],
        "a region within another": [
            unit() + region(page, 9 * page) + region(3 * page, 4 * page, scope(0x30)),
            unit() + region(3 * page, 4 * page) + region(page, 9 * page, scope(0x30)),
        ],
        "a third region on the first": unit()
        + region(page, 2 * page)
        + region(3 * page, 4 * page, scope(0x30))
        + region(page, 2 * page, scope(0x38)),
        "a last region that is bad": plain + region(3 * page, 4 * page, scope(kind=2)),
        "other structures": [
            unit() + other(kind, size) + region(page, 2 * page) for kind, size in ((2, 4), (3, 5), (77, 9))
        ],
        "another structure of no size": [plain + other(5, 8, long) for long in (0, 1, 3)],
        "another structure beyond the end": [plain + other(5, 8, long) for long in (8, 9, 0xFFFF)],
        "bytes left over": [plain + bytes(left) for left in (1, 2, 3, 4)],
        "a structure of no contents at the end": plain + other(5, 4),
        "a structure within the rest": plain + other(5, 4, 4)[:3],
    }
    for name, body in bodies.items():
        each = [body] if isinstance(body, bytes) else [*body]
        found |= {name if len(each) == 1 else f"{name} ({at})": table(one) for at, one in enumerate(each)}
    return found
