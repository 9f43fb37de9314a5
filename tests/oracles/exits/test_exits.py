"""The exits oracle fires on each thing that an exit must not do, and is silent on what it must."""

import textwrap
from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

HEAD = "# hvp 1\nworld devices\n"
FAULTS = {
    "a refused call returns a stale result": (
        "hvfuzz.hypervisor.core.dispatch:vmcall",
        """
        original = dispatch.vmcall
        def replacement(hv, vcpu):
            original(hv, vcpu)
            if vcpu.vmcs.saved[0]:
                vcpu.vmcs.saved[2] = hv.domains[0].stage2.root
        """,
        "vmcall(dom1, rax=0x7f, rdi=0)\n",
        "exits/registers/vmcall",
    ),
    "a status is another one for the guest": (
        "hvfuzz.hypervisor.core.dispatch:vmcall",
        """
        original = dispatch.vmcall
        def replacement(hv, vcpu):
            original(hv, vcpu)
            vcpu.vmcs.saved[0] = 0
        """,
        "grant.revoke(dom1, ref=3)\n",
        "exits/registers/grant.revoke",
    ),
    "an MSR changes": (
        "hvfuzz.hypervisor.core.exits:step_over",
        """
        original = exits.step_over
        def replacement(vmcs):
            original(vmcs)
            vmcs.saved[24][0xC0000082] = 0x1000
        """,
        "cpuid(dom1, leaf=0)\n",
        "exits/registers/cpuid",
    ),
    "CPUID tells of others": (
        "hvfuzz.hypervisor.core.exits:cpuid_leaf",
        """
        def replacement(leaf, subleaf, apic_id, vcpus):
            return leaf >> 28, 0, 0, 0
        """,
        "cpuid(dom1, leaf=0x80000008)\n",
        "exits/registers/cpuid",
    ),
    "a read beyond the registers": (
        "hvfuzz.hypervisor.core.exits:read_register",
        """
        original = exits.read_register
        def replacement(hv, device, offset, width):
            return hv.host.read64(hv.frames.base + offset) if offset >= 0x40 else original(hv, device, offset, width)
        """,
        "mmio_read(dom1, device=0, register=0xff8, size=8)\n",
        "exits/registers/mmio_read",
    ),
    "another domain's device": (
        "hvfuzz.hypervisor.core.exits:emulated_device",
        """
        original = exits.emulated_device
        def replacement(hv, vcpu):
            return original(hv, vcpu) and hv.machine.devices[1]
        """,
        "mmio_write(dom1, device=0, register=SRC, size=8, value=8)\n",
        "exits/others/mmio_write",
    ),
    "no fault where there is nothing": (
        "hvfuzz.hypervisor.core.exits:ept_violation",
        """
        def replacement(hv, vcpu):
            exits.step_over(vcpu.vmcs)
        """,
        "load(dom1, gva=DIRECT+0x400000, size=8)\n",
        "exits/fault/load",
    ),
    "a fault for somebody else": (
        "hvfuzz.hypervisor.core.exits:ept_violation",
        """
        from hvfuzz.machine.cpu.faults import GuestFault
        original = exits.ept_violation
        def replacement(hv, vcpu):
            original(hv, vcpu)
            hv.machine.vcpus[0].pending_fault = GuestFault(13)
        """,
        "load(dom1, gva=DIRECT+0x400000, size=8)\n",
        "principal/injection/load",
    ),
    "another domain's serial port": (
        "hvfuzz.hypervisor.core.exits:port_access",
        """
        original = exits.port_access
        def replacement(hv, vcpu):
            vmcs = vcpu.vmcs
            hv.domains[2].devices.by_name["uart"].port_write(vmcs.port & 7, 1, vmcs.saved[0])
            original(hv, vcpu)
        """,
        "out(dom1, port=0x3ff, size=1, value=0x5a)\n",
        "exits/model/out",
    ),
    "another domain's device does the work": (
        "hvfuzz.hypervisor.hypercalls.device.dma_submit:SubmitDma.apply",
        """
        from hvfuzz.hypervisor.hypercalls.device.dma_submit import SubmitDma
        original = SubmitDma.apply
        def replacement(self, hv):
            original(self._replace(device=0), hv)
        """,
        "device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)\n"
        "device.dma_map(dom2, iova=0, gfn=0x40, count=2, rights=R|W)\n"
        "device.dma_submit(dom2, device=1, from=0, to=0x1000, length=8)\n",
        "exits/dma/device.dma_submit",
    ),
    "another domain's input": (
        "hvfuzz.hypervisor.core.exits:merged",
        """
        def replacement(register, width, value):
            return 0x41
        """,
        "in(dom1, port=0x60, size=1)\n",
        "exits/registers/in",
    ),
    "a guest state that VM entry refuses": (
        "hvfuzz.hypervisor.core.exits:cpuid",
        """
        original = exits.cpuid
        def replacement(hv, vcpu):
            original(hv, vcpu)
            vcpu.vmcs.saved[17] = 0
        """,
        "cpuid(dom1, leaf=0)\npause(dom1)\n",
        "exits/entry/cpuid",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_the_clean_build_is_silent(fault: str, tmp_path: Path) -> None:
    replaces, code, program, identity = FAULTS[fault]
    path = tmp_path / "fault.py"
    path.write_text(
        "from hvfuzz.bugs import Bug\nfrom hvfuzz.hypervisor.core import dispatch, exits\n"
        + textwrap.dedent(code)
        + f'BUG = Bug(name="fault", replaces="{replaces}", replacement=replacement)\n'
    )
    bug = find_bug(str(path))
    with EmulatedTarget(bug) as target:
        found = [finding.identity for finding in target.run(parse(HEAD + program, target.catalogue)).findings]
    assert identity in found
    with EmulatedTarget() as target:
        assert target.run(parse(HEAD + program, target.catalogue)).findings == ()


def test_too_much_work_outside_of_calls_is_found(tmp_path: Path) -> None:
    path = tmp_path / "fault.py"
    path.write_text(
        textwrap.dedent(
            """
            from hvfuzz.bugs import Bug
            from hvfuzz.hypervisor.core import exits
            original = exits.ept_violation
            def replacement(hv, vcpu):
                for domain in hv.domains:
                    for gfn in range(0x800):
                        domain.stage2.lookup(gfn)
                original(hv, vcpu)
            BUG = Bug(name="fault", replaces="hvfuzz.hypervisor.core.exits:ept_violation", replacement=replacement)
            """
        )
    )
    with EmulatedTarget(find_bug(str(path))) as target:
        program = parse(HEAD + "load(dom1, gva=DIRECT+0x400000, size=8)\n", target.catalogue)
        assert "work/preemption/load" in [finding.identity for finding in target.run(program).findings]
