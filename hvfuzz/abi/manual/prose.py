"""The prose of ABI.md: calling convention, argument structs, order of checks, address ranges, other VM exits."""

from inspect import cleandoc

from hvfuzz.abi import boot, limits, versions
from hvfuzz.abi.layout import ALIGNMENT, Header, lower
from hvfuzz.machine.addresses import PAGE_SHIFT

_WIDTHS = {"B": 1, "H": 2, "L": 4, "Q": 8}
_HEADER_FIELDS = {
    "size": f"bytes of the whole struct, header included: {limits.HEADER_SIZE} to {limits.STRUCT_MAX}",
    "version": "ABI version that the struct is written for: 1 to the domain's version",
    "reserved": "zero",
}


MODEL_TABLE = "(table of device models)"
"""Stands where the table goes that derives from the placements."""


def general() -> tuple[str, ...]:
    """The sections that hold for all calls, in order."""
    return _calling(), _structs(), _order(), _memory(), _domains()


def _calling() -> str:
    return cleandoc(f"""
        # The hypercall ABI, version {versions.CURRENT}

        This file is generated from `hvfuzz/abi/` and from the declarations in `hvfuzz/hypervisor/hypercalls/`. Change
        those, then run `hvfuzz abi --write ABI.md`.

        ## Calling convention

        A guest makes a hypercall with VMCALL at CPL 0.

        | register | before VMCALL | after VMCALL |
        |---|---|---|
        | RAX | call number | status: 0, or a negative code as a two's-complement u64 |
        | RDI | guest virtual address of the argument struct | unchanged |
        | RDX | ignored | result of the call if the status is `OK`, else 0 |

        All integers are little-endian. The hypervisor completes all checks of a call before it changes anything, so a
        refused call has no effect (`multicall` has one exception, which its section describes). If several checks
        fail, the first one in the order of this document decides the status.
        """)


def _structs() -> str:
    header = "\n".join(
        f"| {place.offset} | u{8 * _WIDTHS[place.code]} | `{place.name}` | {_HEADER_FIELDS[place.name]} |"
        for place in lower(Header)[1]
    )
    return "\n\n".join(
        (
            "## Argument structs\n\nEvery argument struct starts with a header:",
            f"| offset | type | field | meaning |\n|---|---|---|---|\n{header}",
            cleandoc(f"""
                The fields of the call follow in the order of its table. Each field is aligned to its own width, and
                the struct is padded to a multiple of {ALIGNMENT} bytes. The hypervisor ignores padding.

                Structs grow at the end only: a field keeps its offset in all later versions.

                - The hypervisor extends a struct that is shorter than the layout of its version with zeros. So an old
                  guest runs on a new hypervisor.
                - It accepts a struct that is longer than the layout of its version if all bytes beyond the layout are
                  zero, and refuses it with `TOO_NEW` otherwise. So a new guest learns that an old hypervisor does not
                  know what it asks for.
                - A field that is newer than the struct's version is zero, whatever bytes are at its offset.
                - If the struct's version is older than the call, the first layout of the call applies.
                """),
        )
    )


def _order() -> str:
    return cleandoc(f"""
        ## Order of checks

        1. CPL is not 0: `NOT_PERMITTED`.
        2. The call number is unknown: `NO_CALL`.
        3. The call is newer than the domain's version: `NO_CALL`.
        4. The call is privileged and the caller is not the control domain: `NOT_PERMITTED`.
        5. The header ({limits.HEADER_SIZE} bytes, the first fetch) is not readable: `FAULT`.
        6. `size` is below {limits.HEADER_SIZE} or above {limits.STRUCT_MAX}: `INVALID`.
        7. `reserved` is not 0: `INVALID`.
        8. `version` is 0: `INVALID`; `version` is above the domain's: `TOO_NEW`.
        9. The rest of the struct (the second fetch, if `size` exceeds {limits.HEADER_SIZE}) is not readable: `FAULT`.
        10. A byte beyond the layout of the struct's version is not zero: `TOO_NEW`.
        11. The checks of the call itself, in the order in which its section lists them.
        """)


def _memory() -> str:
    return cleandoc(f"""
        ## Guest memory

        The hypervisor reads and writes argument structs and arrays through the caller's own tables: stage 1 (the
        caller's CR3, supervisor rights, CR0.WP; SMAP does not apply), then stage 2. A range of addresses is valid if

        - it does not wrap,
        - all of it is canonical,
        - none of it lies in the hypervisor's hole,
          `{boot.HYPERVISOR_HOLE_START:#_x}` to `{boot.HYPERVISOR_HOLE_END:#_x}` (exclusive), and
        - each page translates with the access that is needed.

        A call that needs any other range is refused with `FAULT`. An empty range is always valid. The hypervisor
        fetches each argument once. It writes results last, and either all of them or none.
        """)


def _domains() -> str:
    return cleandoc(f"""
        ## Domains, frames, rights

        Domain 0 is the control domain. Only the control domain may make privileged calls. In every domain field,
        `SELF` ({limits.SELF:#x}) means the caller.

        A guest frame number (gfn) is a guest physical address divided by 4096. Guest frame numbers of RAM lie below
        `MAX_GFN` ({limits.MAX_GFN:#x}); a range that exceeds it is `INVALID`.

        Rights are a bit mask: R = 1, W = 2, X = 4.

        Devices access memory at device addresses, which the IOMMU translates through a table of the domain that the
        device is assigned to. Device addresses lie below {limits.IOVA_LIMIT:#x}, and outside the hole
        {limits.IOVA_HOLE.start:#x} to {limits.IOVA_HOLE.stop:#x} (exclusive): accesses there are interrupt messages,
        which are never translated. A range of device pages that exceeds the limit, or touches the hole, is `INVALID`.

        A call that needs new table pages takes them from the pool of the domain: one for each missing level of EPT or
        IOMMU tables, and one for each large page that it splits. If the pool has too few, the call is refused with
        `NO_POOL`.

        A call asks for all its frames first, then for all its table pages. A host that is short of memory may refuse
        either request, whatever is free: then the call is refused with `NO_MEMORY` or `NO_POOL`, as if too few were.
        """)


def other_exits() -> str:
    """The section on the VM exits that are not hypercalls."""
    return cleandoc(f"""
        ## Other VM exits

        - **CPUID**: leaves 0 to 0xb and 0x80000000 to 0x80000008 describe the emulated processor, independent of the
          host's: the features that the machine has, 40 physical and 48 linear address bits, one core for each vCPU.
          Leaf `{boot.CPUID_SIGNATURE:#x}` holds the hypervisor's signature,
          leaf `{boot.CPUID_VERSION:#x}` the newest ABI version.
        - **RDTSC, RDTSCP**: these read the clock of `time.clock_read`, with the same rounding, and count as reads of
          it (see Time). When `time.clock_read` would return `AGAIN`, the vCPU waits until the next window begins
          instead.
        - **RDMSR, WRMSR**: the MSRs of a guest's own system calls, segments and paging do not exit.
          - `TSC` reads as RDTSC does. A write sets the value from which the vCPU's counter goes on: its offset is the
            value less the clock in whole grains. A write is not counted; only a counted read shows its time.
          - `APIC_BASE`, `MISC_ENABLE`, `MTRRcap`, `MTRRdefType`, `ARCH_CAPABILITIES` and `XAPIC_DISABLE_STATUS` are
            constant. The first two accept a write of the value that they have.
          - `0x800` to `0xbff` are the vCPU's local APIC, which is locked in x2APIC mode. It has an ID (the number of
            the vCPU), version, TPR, PPR, EOI, LDR, SVR, ISR, TMR, IRR, ESR, ICR, six LVT entries, a timer, and SELF
            IPI. Fixed interrupts reach vCPUs of the same domain; other interrupts are lost.
          - The APIC timer is that of SDM Vol. 3A, 11.5.4, one-shot and periodic; its LVT entry has no TSC-deadline
            mode. It counts the virtual clock in whole ticks: when a tick begins, the current count falls by the cycles
            of the tick divided by the divide value.
            - A write of the initial count copies it into the current count, and starts the count; 0 stops it. No
              other write starts or stops a count, or changes the current count.
            - A write of the divide configuration sets how fast the count falls from then on.
            - When the count reaches zero, the interrupt is raised, once for all ends between two VM exits, unless the
              LVT entry is masked. The mode that the LVT entry has then decides how it goes on: in one-shot mode the
              current count is 0 until the initial count is written again; in periodic mode it is reloaded from the
              initial count, and falls by what is left of the tick.
          - Every other access gets #GP(0).
        - **MOV to and from CR8**: bits 7..4 of the TPR of the local APIC. A value above 15 gets #GP(0).
        - **HLT**: the vCPU halts unless an event is pending or it can take an interrupt; the section on waiting says
          what makes it runnable again.
        - **IN, OUT**: some ports belong to device models of the domain, listed below.
          Other ports read as all ones and ignore writes. INS and OUTS access memory with the rights of the guest's
          current ring, and move at most {limits.STRING_BURST} elements in one exit. An element that is not at a valid
          address for arguments, or that stage 2 refuses, gets #GP(0).
          The processor has checked the port before, by IOPL and the I/O permission bit map in the guest's TSS.
        - **Triple fault**: the vCPU stops for ever. The other vCPUs of the domain go on.
        - **VM-entry failure**: no guest can cause one. If there is one, the vCPU stops for ever, as by a triple fault.
        - **EPT violation**: a load or store in a device page of the domain is emulated. Accesses of 1, 2, 4 or 8
          bytes, naturally aligned, reach the registers; others read as zero and ignore writes. Any other EPT violation
          gets #GP(0). If it occurs while an exception is delivered, the processor's rules for a second exception
          apply: #GP(0), #DF or a triple fault.

        The device pages are {boot.MMIO_SIZE:#x} bytes each, from guest physical address `{boot.MMIO_BASE:#x}` on:

        | page | device |
        |---|---|
        | 0 to {boot.DMA_ENGINES - 1} | DMA engine |
        | {boot.VIRTIO_BLK} | virtio block device |
        | {boot.VIRTIO_NET} | virtio network device |

        Pages 0 to {boot.DEVICES - 1} are those of the device with this number, in the domain that it is assigned to;
        `hvfuzz/machine/devices/` describes their registers. When the device is taken from the domain, its registers
        and its disk are cleared.
        """)


def device_models() -> str:
    """The introduction to the table of device models, and what a guest must know of some."""
    return cleandoc(f"""
        ## Device models

        The hypervisor emulates these for every domain, in `hvfuzz/hypervisor/devices/`. A register that a model does
        not have reads as zero and ignores writes.

        {MODEL_TABLE}

        The timer raises an event on a port of the domain, once or periodically. Its registers are 8 bytes wide;
        accesses of other widths read as zero and write nothing.

        - A write of `TIMER_DELAY` sets a deadline of that many cycles (see Time), in place of an earlier one; 0 disarms
          the timer. It reads as written, and as 0 after the expiry of a timer that is not periodic.
        - `TIMER_PERIOD` is looked at when the timer expires. If it is 0, the timer is disarmed; otherwise the next
          deadlines follow at distances of `TIMER_PERIOD`, rounded up to whole ticks, and those that are met at the same
          VM exit are one event.
        - `TIMER_EXPIRED` counts the deadlines that were met, modulo 2^64; any write sets it to 0.
        - `TIMER_PORT` is the number of the port that gets the event. If the domain has no such port then, nobody does.

        A write to the page of coalesced writes is not emulated: the hypervisor appends it to a ring in guest memory, at
        guest physical address {boot.COALESCED_GFN << PAGE_SHIFT:#x}, which it accesses through the guest's direct map,
        with the page tables of the writing vCPU. The ring has two indices of 32 bits, `first` and `last`, and 16
        entries of 24 bytes: address (64 bits), length, padding (32 bits each), data (64 bits). The entry goes to
        `last`, which then moves on, modulo 16. The guest moves `first` on. The ring is full if `last` is just before
        `first`, so that one entry is always free; it is invalid if `last` is 16 or more.

        No write is lost. If the ring is full, invalid or not writable, the write is performed at once, on the registers
        of the page: four words of 64 bits, from offset 0 on. They are zero at boot. A queued write does not change
        them. Reads of the page return them; what lies beyond them reads as zero and ignores such writes.
        """)
