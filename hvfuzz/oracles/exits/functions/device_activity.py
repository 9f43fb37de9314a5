"""Runs the second models beside the PCI functions: each access by DMA, and afterwards all registers, must be theirs.

An activity begins when a guest or a call writes to registers, and ends when that write is done. In between, the models
say which access comes next. Helper of the oracle `exits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, WRITE
from hvfuzz.oracles.exits.functions.all_functions import second_functions
from hvfuzz.oracles.exits.functions.second_function import Access, SecondFunction, Steps
from hvfuzz.oracles.scene.device_windows import FIRST_WINDOW, WINDOWS_END

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene


Begun: TypeAlias = tuple[SecondFunction, Callable[[], Steps[None]]]
"""A function, and what makes the steps that a write to its registers asks for."""


class DeviceActivity:
    """What the functions of one machine do, and should do; `report` takes a rule and a message."""

    __slots__ = (
        "_base",
        "_begun",
        "_clearing",
        "_data",
        "_past",
        "_report",
        "_scene",
        "_steps",
        "_subjects",
        "_touched",
        "_used",
        "_waiting",
        "_written",
        "bus",
        "due",
        "lost",
    )

    def __init__(self, scene: Scene, report: Callable[[str, str], None]) -> None:
        self.bus: Final = second_functions(scene)
        self._scene: Final = scene
        self._report: Final = report
        self._subjects: Final = scene.machine.devices
        self._data: Final = scene.machine.memory.data
        self._base: list[tuple[list[int], bytes]] = []
        """Registers and internal memory of each function after boot."""
        self._steps: Steps[None] | None = None
        """What is still to be done."""
        self._begun: Begun | None = None
        """The function and the steps of the activity that is announced, until it makes an access or ends."""
        self._clearing: int | None = None
        """Number of the function whose reset is announced, until the end of the step."""
        self._waiting: Begun | None = None
        """Those of the activity that was announced when a device woke up by itself."""
        self.due: Access | None = None
        """The next access; None if nothing is left to do."""
        self.lost = False
        """An access was wrong, so it is unknown what comes next in this activity."""
        self._past: list[Access] = []
        self._written: Access | None = None
        """The last write, which is in memory when the next access comes."""
        self._touched: dict[SecondFunction, None] = {}
        """Functions whose registers this activity may change."""
        self._used = False
        """Whether a function may differ from the base."""

    @property
    def functions(self) -> list[SecondFunction]:
        """The second models, by number."""
        return list(self.bus.functions)

    def attach(self) -> None:
        """Every function must be in its power-on state (operation `boot`). The present state is the base."""
        self.compare("device", "after boot")
        self._base = [(list(function.registers), bytes(function.private)) for function in self.bus.functions]
        self._used = False
        self._forget()

    def reset(self) -> None:
        """Return to the base."""
        if self._used:
            for function, (registers, private) in zip(self.bus.functions, self._base, strict=True):
                function.restore(registers, private)
            self._used = False
        self._waiting = None
        self._forget()

    def begin(self, function: SecondFunction, steps: Callable[[], Steps[None]]) -> None:
        """A write to registers of `function` is about to be made, which asks for these steps."""
        self._forget()
        self._used = True
        self._touched[function] = None
        self._begun = function, steps

    def woken(self, number: int) -> None:
        """A function is about to act by itself. What is announced waits: nothing of it is done."""
        waiting, clearing = self._begun, self._clearing
        function = self.bus.functions[number]
        self.begin(function, function.wake)
        self._waiting, self._clearing = waiting, clearing

    def rested(self, where: str) -> None:
        """It has acted: what waits begins only now, by the registers and the memory of this time."""
        waiting, clearing = self._waiting, self._clearing
        self._waiting = self._clearing = None
        self.end("device", where)
        if waiting is not None:
            self.begin(*waiting)
        if clearing is not None:
            self.cleared(clearing)

    def cleared(self, number: int) -> None:
        """Function `number` is about to be taken from its domain, which resets it."""
        self._forget()
        self._used = True
        self._touched[self.bus.functions[number]] = None
        self._clearing = number

    def _clear(self) -> None:
        """The reset that was announced is made, at the latest now."""
        if self._clearing is not None:
            self.bus.functions[self._clearing].reset()
            self._clearing = None

    def _start(self) -> None:
        """The activity that was announced begins, at the latest now."""
        if self._begun is not None:
            self._steps, self._begun = self._begun[1](), None
            self._advance(None)

    def accessed(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """A function is about to access memory or registers."""
        self._start()
        self._check_written()
        if self.lost:
            return
        due = self.due
        if (
            due is None
            or due.hpa != hpa
            or due.size != size
            or due.access != access
            or self._number(due.function) != self._number(initiator)
        ):
            self._astray(initiator, hpa, size, access)
            return
        self._past.append(due)
        if access == WRITE:
            if hpa < self._scene.memory_size:
                self._written = due
            else:
                self._reached(hpa)
            self._advance(b"")
        elif hpa < self._scene.memory_size:
            self._advance(bytes(self._data[hpa : hpa + size]))
        else:
            self._advance(self.bus.read_registers(hpa, size))

    def end(self, rule: str, where: str) -> None:
        """The write is done: nothing may be left to do, and all registers must be right.

        `rule` is broken by wrong registers of the functions that were written to. All present state is adopted.
        """
        self._start()
        self._clear()
        self._check_written()
        due = self.due
        if due is not None and not self.lost:
            self._report("dma", f"{due.function.name} never {_verb(due.access)} {_amount(due)}: {due.what}")
        self.compare(rule, where)
        self._forget()

    def compare(self, rule: str, where: str) -> None:
        """Report each function whose registers or internal memory are not as the models have them; adopt its state."""
        for function, subject in zip(self.bus.functions, self._subjects, strict=True):
            registers, private = subject.registers, subject.private
            if registers == function.registers and private == function.private:
                continue
            self._used = True
            broken = rule if function in self._touched or not self._touched else "others"
            if not self.lost or function not in self._touched:
                self._report(broken, f"{where}: {_difference(function, registers, bytes(private))}")
            function.restore(registers, private)

    def _forget(self) -> None:
        self._steps = self._begun = self._clearing = self.due = self._written = None
        self.bus.blocked = None
        self._past.clear()
        self._touched.clear()
        self.lost = False

    def _advance(self, data: bytes | None) -> None:
        """Go on to the next access; `data` is what the last one has read."""
        assert self._steps is not None
        try:
            self.due = next(self._steps) if data is None else self._steps.send(data)
        except StopIteration:
            self.due = None

    def _reached(self, hpa: int) -> None:
        """A function writes to registers."""
        function = self.bus.at(hpa)
        if function is not None:
            self._touched[function] = None

    def _number(self, function: object) -> int:
        """The number of a function or of its second model."""
        for number, (subject, second) in enumerate(zip(self._subjects, self.bus.functions, strict=True)):
            if function is subject or function is second:
                return number
        return -1

    def _check_written(self) -> None:
        """The last write must have written what the models say."""
        written = self._written
        if written is None:
            return
        self._written = None
        found = bytes(self._data[written.hpa : written.hpa + written.size])
        if found != written.data:
            at = next(at for at, (is_, should) in enumerate(zip(found, written.data, strict=True)) if is_ != should)
            text = f"byte {at} is {found[at]:#x}, expected {written.data[at]:#x}"
            self._report("answer", f"{written.function.name} writes a wrong {written.what}: {text}")

    def _astray(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """Report an access that the models do not make."""
        self.lost = True
        self._used = True
        if access == WRITE and FIRST_WINDOW <= hpa < WINDOWS_END:
            self._reached(hpa)
        number = self._number(initiator)
        name = f"{'a function' if number < 0 else self._subjects[number].name}"
        what = (
            f"{name} {_verb(access)} {size} bytes at {hpa & PAGE_MASK:#x} of {self._scene.describe(hpa >> PAGE_SHIFT)}"
        )
        again = next((past for past in self._past if (past.hpa, past.size, past.access) == (hpa, size, access)), None)
        if again is not None:
            what += f", {again.what}, a second time"
        due = self.due
        if due is None and self.bus.blocked is not None:
            what += f", although the tables block what it asked for at iova {self.bus.blocked:#x}"
        elif due is None:
            what += ", although it has nothing to do" if not self._past else ", although it is done"
        else:
            what += f"; next is that {due.function.name} {_verb(due.access)} {_amount(due)}: {due.what}"
        self._report("dma", what)


def _verb(access: int) -> str:
    return "writes" if access == WRITE else "reads"


def _amount(access: Access) -> str:
    return f"{access.size} bytes at {access.hpa:#x}"


def _difference(function: SecondFunction, registers: list[int], private: bytes) -> str:
    """The first difference of the registers or the internal memory from those of the model."""
    for word, (found, wanted) in enumerate(zip(registers, function.registers, strict=False)):
        if found != wanted:
            return f"register word {word} ({8 * word:#x}) of {function.name} is {found:#x}, expected {wanted:#x}"
    if len(registers) != len(function.registers):
        return f"{function.name} has {len(registers)} register words, expected {len(function.registers)}"
    for at, (found, wanted) in enumerate(zip(private, function.private, strict=False)):
        if found != wanted:
            return f"byte {at:#x} of the memory of {function.name} is {found:#x}, expected {wanted:#x}"
    return f"{function.name} has {len(private)} bytes of memory, expected {len(function.private)}"
