"""A new device model costs one file, its second model, and a line in each list: shown with a toy, faulty and right."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import pytest

from hvfuzz.abi.device_models import Placement
from hvfuzz.abi.manual.document import render
from hvfuzz.abi.registry import Abi
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor import hypercalls
from hvfuzz.hypervisor.devices import all_models
from hvfuzz.hypervisor.devices.device_model import DeviceModel, Site
from hvfuzz.machine.addresses import SIZE_MASK
from hvfuzz.machine.clock import Clock
from hvfuzz.oracles.exits.models import all_models as all_second_models
from hvfuzz.oracles.exits.models.second_model import SecondModel
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

LATCH = 0x120
PAGE = 0x20
PORT = 0x500
PROGRAM = f"""\
# hvp 1
world pair
mmio_write(dom1, device={PAGE}, register={LATCH}, size=8, value=0x1122334455667788)
mmio_write(dom2, device={PAGE}, register={LATCH}, size=2, value=0xabcd)
mmio_read(dom1, device={PAGE}, register={LATCH}, size=8)
mmio_read(dom2, device={PAGE}, register={LATCH}, size=4)
out(dom1, port={PORT}, size=1, value=7)
in(dom1, port={PORT}, size=1)
in(dom2, port={PORT}, size=4)
mmio_read(dom1, device={PAGE}, register={LATCH + 1}, size=4)
"""


class Toy(DeviceModel):
    """A latch of 8 bytes at LATCH, whose low byte is at PORT as well."""

    __slots__ = ("at", "host")

    placement = Placement(
        "toy",
        "latch",
        ports=range(PORT, PORT + 1),
        page=PAGE,
        registers=MappingProxyType({"TOY_LATCH": LATCH}),
        edges=(PORT, PORT + 1),
    )
    memory = 8

    def __init__(self, site: Site) -> None:
        self.host = site.host
        self.at = site.memory
        super().__init__(site)

    def reset(self) -> None:
        self.host.write64(self.at, 0)

    def mmio_read(self, offset: int, size: int) -> int:
        return self.host.read64(self.at) & SIZE_MASK[size] if offset == LATCH else 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        if offset == LATCH:
            self.host.write(self.at, value.to_bytes(8, "little")[:size])

    def port_read(self, offset: int, size: int) -> int:
        return self.host.read64(self.at) & SIZE_MASK[size]

    def port_write(self, offset: int, size: int, value: int) -> None:
        self.mmio_write(LATCH, size, value & SIZE_MASK[size])


class SecondToy(SecondModel):
    """The latch once more."""

    __slots__ = ("value",)

    name = "toy"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.value = bytearray(8)

    def mmio_read(self, offset: int, width: int) -> int:
        return int.from_bytes(self.value[:width], "little") if offset == LATCH else 0

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        if offset == LATCH:
            self.value[:width] = value.to_bytes(width, "little")

    def port_read(self, offset: int, width: int) -> int:
        return self.mmio_read(LATCH, width)

    def port_write(self, offset: int, width: int, value: int) -> None:
        self.mmio_write(LATCH, width, value & SIZE_MASK[width])

    def memory(self) -> bytes:
        return bytes(self.value)


class Overflowing(Toy):
    """Writes of 8 bytes go on into what lies behind the model's memory."""

    __slots__ = ()

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.host.write(self.at, value.to_bytes(8, "little")[:size] * (2 if size == 8 else 1))


class Leaking(Toy):
    """Reads give what lies behind the model's memory."""

    __slots__ = ()

    def mmio_read(self, offset: int, size: int) -> int:
        return self.host.read64(self.at + 8)


Run = Callable[[type[DeviceModel]], tuple[list[int], list[str]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """What PROGRAM reads on a hypervisor with one model more, and the identities of its findings."""

    def run_one(model: type[DeviceModel]) -> tuple[list[int], list[str]]:
        monkeypatch.setattr(all_models, "MODELS", (*all_models.MODELS, model))
        with EmulatedTarget() as target:
            done = target.run(parse(PROGRAM, target.catalogue))
        reads = [at for at, line in enumerate(PROGRAM.splitlines()[2:]) if "read(" in line or line.startswith("in(")]
        outcomes = [outcome.result for outcome in done.trace.outcomes if outcome.op in reads]
        return outcomes, [finding.identity for finding in done.findings]

    return run_one


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle knows the toy."""
    monkeypatch.setattr(all_second_models, "SECOND_MODELS", (*all_second_models.SECOND_MODELS, SecondToy))


@pytest.mark.usefixtures("second")
def test_a_right_model_is_silent(run: Run) -> None:
    assert run(Toy) == ([0x1122334455667788, 0xABCD, 7, 0xABCD, 0], [])


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize(
    ("model", "identity"), [(Overflowing, "exits/model/mmio_write"), (Leaking, "exits/registers/mmio_read")]
)
def test_a_faulty_model_is_found(run: Run, model: type[DeviceModel], identity: str) -> None:
    assert run(model)[1][:1] == [identity]


def test_a_model_without_a_second_one_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="no second model of the device model 'toy'"):
        run(Toy)


def test_programs_and_the_manual_know_it_by_its_placement() -> None:
    families = [hypercalls.discovery, hypercalls.memory]
    abi = Abi(families, device_models=[Toy.placement])
    kinds = catalogue(abi)
    named = parse("# hvp 1\nworld pair\nmmio_write(dom1, device=TOY, register=TOY_LATCH, size=8, value=1)\n", kinds)
    assert named.ops[0].values == (PAGE, LATCH, 8, 1)
    device, register = (field.kind for field in kinds.by_name["mmio_write"].fields[:2])
    port = kinds.by_name["outs"].fields[0].kind
    assert (PAGE in device.edges, LATCH in register.edges, PORT in port.edges) == (True, True, True)
    assert "| `toy` | latch | `0x500` to `0x500` | `0x20` | `TOY_LATCH` 0x120 |" in render(abi)


class TooLarge(Toy):
    __slots__ = ()
    memory = 0x100


class SamePage(Toy):
    __slots__ = ()
    placement = Placement("other", "latch", page=0x10)


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize(
    ("model", "message"),
    [(TooLarge, "need 0x180 bytes of host memory, limit 0x100"), (SamePage, "those of another model")],
)
def test_a_placement_that_cannot_be_is_refused(run: Run, model: type[DeviceModel], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run(model)
