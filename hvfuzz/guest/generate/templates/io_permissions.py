"""Template of a kernel that lets its processes reach some I/O ports: the I/O permission bit map of the TSS."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import DIRECT_MAP, FIFO_PORT, UART_PORT, USER_BASE
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.argument_kinds import SIZES
from hvfuzz.guest.program.program import Op

_TSS: Final = DIRECT_MAP + 0x5_1000
_BASE: Final = 0x66
"""Offset in the TSS of the 16-bit offset of the map (SDM Vol. 3A, 7.7)."""
_MAP: Final = 0x68
_PORTS: Final = (UART_PORT, UART_PORT + 5, FIFO_PORT + 5, 0x7F, 0x80)


def io_permissions(context: Context) -> None:
    """Append a TSS with a map in which the bits of some ports are clear, and accesses to these ports from ring 3.

    The limit of the TSS is now and then too short by a byte, and the TSS at an address with nothing or a device.
    """
    grammar = context.grammar
    ltr, store, sysret = (grammar.allowed(name) for name in ("ltr", "store", "sysret"))
    if ltr is None or store is None or sysret is None:
        return
    actor = context.actor()
    port = context.pick(_PORTS)
    byte = _MAP + (port >> 3)
    context.append(Op(store, actor, (_TSS + _BASE, 2, _MAP)))
    context.append(Op(store, actor, (_TSS + byte, 2, 0xFFFF & ~(context.pick((1, 3, 0xF, 0)) << (port & 7)))))
    base = _TSS if context.chance(0.9) else context.pick((0x70_0000, DIRECT_MAP + 0xFE00_1000))
    context.append(Op(ltr, actor, (base, context.pick((byte + 1, byte + 1, byte + 1, 0xFFFF, byte, 0x67)))))
    context.append(Op(sysret, actor, ()))
    for _ in range(1 + context.below(3)):
        name = context.pick(("in", "out", "ins", "outs"))
        kind = grammar.allowed(name)
        if kind is None:
            continue
        size = context.pick(SIZES)
        near = port + context.pick((0, 0, 0, 1, -1))
        arguments: dict[str, tuple[int, ...]] = {
            "in": (near, size),
            "out": (near, size, context.below(0x100)),
            "ins": (near, size, USER_BASE, context.below(4)),
            "outs": (near, size, USER_BASE, context.below(4)),
        }
        context.append(Op(kind, actor, arguments[name]))
    syscall = grammar.allowed("syscall")
    if syscall is not None:
        context.append(Op(syscall, actor, ()))
