"""Tells a fault of the hypervisor from an internal error of an oracle."""

from __future__ import annotations

import traceback
from typing import Final

ORACLES: Final = "hvfuzz.oracles."
HARDWARE: Final = ("hvfuzz.machine.", "hvfuzz.oracles.host.hooked_hardware")


def raised_by_an_oracle(fault: BaseException) -> bool:
    """Whether the exception comes from an oracle that the hypervisor called as its observer.

    Hardware, hooked or not, raises on behalf of its caller: so the innermost code that is not hardware's decides.
    """
    raiser = ""
    for frame, _ in traceback.walk_tb(fault.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(HARDWARE):
            raiser = module
    return raiser.startswith(ORACLES)
