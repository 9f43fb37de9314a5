"""Tells a fault of the hypervisor from an internal error of an oracle and from an interrupt by the user."""

from __future__ import annotations

import dis
import traceback
from typing import Final

ORACLES: Final = "hvfuzz.oracles."
HARDWARE: Final = ("hvfuzz.machine.", "hvfuzz.oracles.host.hooked_hardware")
MAX_TEXT: Final = 1000
"""Longest text of a fault, in characters."""


def raised_by_an_oracle(fault: BaseException) -> bool:
    """Whether the exception comes from an oracle that the hypervisor called as its observer.

    Hardware, hooked or not, raises on behalf of its caller: so the innermost code that is not hardware's decides. The
    end of the stack is no fault of the code that happens to be called there: the code with most of the calls decides.
    What the hypervisor makes of an exception of an oracle's (`raise ... from`) is still the oracle's.
    """
    if fault.__suppress_context__ and fault.__context__ is not None and raised_by_an_oracle(fault.__context__):
        return True
    raiser = ""
    oracles = others = 0
    for frame, _ in traceback.walk_tb(fault.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(HARDWARE):
            raiser = module
        if module.startswith(ORACLES) and not module.startswith(HARDWARE):
            oracles += 1
        else:
            others += 1
    if isinstance(fault, RecursionError):
        return oracles > others
    return raiser.startswith(ORACLES)


def is_interrupt(fault: BaseException) -> bool:
    """Whether the user interrupted the process; a KeyboardInterrupt that a statement raises is an exception as others.

    Python's handler of SIGINT raises between two instructions, so the last one of the innermost frame is no `raise`.
    """
    trace = fault.__traceback__
    if not isinstance(fault, KeyboardInterrupt) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code.co_code
    return code[trace.tb_lasti] != dis.opmap["RAISE_VARARGS"]


def fault_text(fault: BaseException) -> str:
    """The message of `fault`, not longer than `MAX_TEXT`; says so if the exception cannot tell it."""
    try:
        return str(fault)[:MAX_TEXT]
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        return f"(its text cannot be made: {type(error).__name__})"


def fault_line(fault: BaseException) -> str:
    """The name and the message of `fault`."""
    text = fault_text(fault)
    return f"{type(fault).__name__}: {text}" if text else type(fault).__name__
