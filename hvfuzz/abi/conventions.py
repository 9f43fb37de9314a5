"""What the ABI document says of all calls: registers, structs, checks, statuses, limits, versions."""

from hvfuzz.abi import boot, limits, versions
from hvfuzz.abi.layout import ALIGNMENT, Header, lower
from hvfuzz.abi.markdown import address, integer, table, text
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import PAGE_SHIFT

_WIDTHS = {"B": 1, "H": 2, "L": 4, "Q": 8}


def sections() -> tuple[str, ...]:
    """The sections before the calls, in order."""
    return (
        _introduction(),
        _structs(),
        _order(),
        _memory(),
        _domains(),
        _statuses(),
        _limits(),
        _versions(),
    )


def _introduction() -> str:
    return text(f"""
        # The hypercall ABI, version {versions.CURRENT}

        This file is rendered from the declarations in `hvfuzz/hypervisor/hypercalls/`; change it there.

        ## Calling

        | register | before VMCALL | after |
        |---|---|---|
        | RAX | the call's number | its status: 0, or a negative code as a two's-complement u64 |
        | RDI | guest virtual address of the argument struct | unchanged |
        | RDX | | the result if the status is `OK` and the call has one, else 0 |

        Only CPL 0 may call. All integers are little-endian. A call is checked completely before anything is
        changed: a refused call changes nothing. Where several checks could fail, the first one counts, in the
        order in which this document gives them.
        """)


def _structs() -> str:
    rows = [(place.offset, _WIDTHS[place.code], place.name) for place in lower(Header)[1]]
    meaning = {
        "size": f"bytes of the whole struct, header included: {limits.HEADER_SIZE} to {limits.STRUCT_MAX}",
        "version": "version of the contract that the struct is written to, from 1 to the domain's",
        "reserved": "zero",
    }
    header = table(
        ("offset", "type", "field", "meaning"),
        ((str(offset), integer(width), f"`{name}`", meaning[name]) for offset, width, name in rows),
    )
    rules = text(f"""
        The fields of the call follow in the order of its table, each aligned to its own width, and the whole
        is padded to a multiple of {ALIGNMENT} bytes. Padding is not looked at.

        Structs grow at the end only: the fields of one version keep their places in the next.

        - A **shorter** struct is extended with zeros, so that an old guest runs on a new hypervisor.
        - A **longer** struct is accepted if every byte beyond what its version has is zero, else it is
          `TOO_NEW`: a new guest learns that an old hypervisor does not know what it asks for.
        - A field that came after the struct's version is zero, whatever lies in its place.
        - A struct whose version is older than the call itself has the call's first layout.
        """)
    return "\n\n".join(("## Argument structs\n\nEvery struct starts with a header:", header, rules))


def _order() -> str:
    return text(f"""
        ## Order of checks

        1. CPL is not 0: `NOT_PERMITTED`.
        2. The number is unknown: `NO_CALL`.
        3. The call is newer than the domain's version: `NO_CALL`.
        4. The call is privileged and the domain is not the control domain: `NOT_PERMITTED`.
        5. The header ({limits.HEADER_SIZE} bytes, the first fetch) is not readable: `FAULT`.
        6. `size` is below {limits.HEADER_SIZE} or above {limits.STRUCT_MAX}: `INVALID`.
        7. `reserved` is not 0: `INVALID`.
        8. `version` is 0: `INVALID`; above the domain's: `TOO_NEW`.
        9. The rest of the struct (the second fetch, if there is a rest) is not readable: `FAULT`.
        10. A byte beyond what the version has is not zero: `TOO_NEW`.
        11. The checks of the call itself.
        """)


def _memory() -> str:
    return text(f"""
        ## Guest memory

        The hypervisor reads and writes arguments through the caller's own tables: stage 1 (its CR3,
        supervisor rights, CR0.WP) and stage 2. A range of addresses is valid if it does not wrap, all of it
        is canonical, none of it lies in the hypervisor's hole `{address(boot.HYPERVISOR_HOLE_START)}` to
        `{address(boot.HYPERVISOR_HOLE_END)}` (exclusive), and each page translates with the access needed;
        else the call is refused with `FAULT`. A range of no bytes is valid wherever it is. Each argument is
        fetched once, and what is written back is written at the end, all or nothing.
        """)


def _domains() -> str:
    return text(f"""
        ## Domains, frames, rights

        Domain 0 is the control domain, which may make the privileged calls. `SELF` ({limits.SELF:#x}) is the
        caller, in every domain field.

        Guest frame numbers of RAM lie below `MAX_GFN` ({limits.MAX_GFN:#x}); a range that is not wholly below
        is `INVALID`. Rights are R = 1, W = 2, X = 4, or-ed.

        Device addresses lie below {limits.IOVA_LIMIT:#x}, and outside {limits.IOVA_HOLE.start:#x} to
        {limits.IOVA_HOLE.stop:#x} (exclusive), which are interrupt messages and never translated: a range of
        device pages that reaches beyond, or touches these, is `INVALID`.

        A call that needs new table pages (a level of EPT or IOMMU tables, the split of a superpage) takes
        them from the domain's pool, and is refused with `NO_POOL` before anything changes if these are too
        few.
        """)


def _statuses() -> str:
    rows = ((f"`{status.name}`", str(status.value), address(status.word), status.meaning) for status in Status)
    return "## Statuses\n\n" + table(("status", "value", "RAX", "meaning"), rows)


def _limits() -> str:
    rows = (
        (
            str(limit.what),
            f"`{limit.name}`",
            "varies" if limit.value is None else str(limit.value),
            limit.meaning,
        )
        for limit in limits.LIMITS
    )
    return "## Limits\n\nAs `discovery.limits` tells them.\n\n" + table(("what", "limit", "value", "meaning"), rows)


def _versions() -> str:
    families = table(("bit", "family"), ((str(bit), f"`{name}`") for bit, name in enumerate(versions.FAMILIES)))
    features = table(
        ("bit", "feature", "since"),
        ((str(feature.bit), f"`{feature.name}`", str(feature.since)) for feature in versions.FEATURES),
    )
    return "\n\n".join(
        (
            "## Versions and features",
            f"Versions {versions.MIN} to {versions.CURRENT}. A domain negotiates its own with"
            " `discovery.version`, and asks for what it needs with `discovery.features` before it uses it.",
            "Page 0, the families of calls:",
            families,
            "Page 1, what later versions added, as far as the domain's version has it:",
            features,
        )
    )


def other_exits() -> str:
    """The section on what makes the hypervisor run besides VMCALL."""
    last = boot.UART_PORT + boot.UART_PORTS - 1
    return text(f"""
        ## Other exits

        - **CPUID**: leaves 0 to 0xb and 0x80000000 to 0x80000008 describe the emulated processor (features that the
          machine has, 40 physical and 48 linear address bits, one core a vCPU), whatever the host's is. Leaf
          `{boot.CPUID_SIGNATURE:#x}` is the hypervisor's signature, `{boot.CPUID_VERSION:#x}` its version.
        - **RDTSC, RDTSCP**: the clock of `time.clock_read`, in the same grain, and counted as a read of it. Where that
          call would say AGAIN, the vCPU waits until the next window begins.
        - **RDMSR, WRMSR**: the MSRs of a guest's own system calls, segments and paging do not exit. `TSC` is as RDTSC.
          `APIC_BASE`, `MISC_ENABLE`, `MTRRcap` and `MTRRdefType` are constant. `0x800` to `0xbff` are the vCPU's local
          APIC, which is locked in x2APIC mode: it has an ID (the number of the vCPU), TPR, PPR, EOI, LDR, SVR, ISR,
          TMR, IRR, ESR, ICR, six LVT entries, a timer, and SELF IPI. Fixed interrupts reach vCPUs of the same domain.
          The timer counts the rounded clock; reading its count is a read of that. All else is #GP(0).
        - **HLT**: the vCPU halts unless an event is pending, or an interrupt that it can take; either wakes it.
        - **IN, OUT**: ports `{boot.UART_PORT:#x}` to `{last:#x}` are the domain's UART, `{boot.FIFO_PORT:#x}` to
          `{boot.FIFO_PORT + boot.FIFO_PORTS - 1:#x}` its floppy controller, without a drive; others read as
          all ones and ignore writes. INS and OUTS move their elements at the rights of the guest's ring,
          {limits.STRING_BURST} in one exit; an element where no argument may lie, or that stage 2 refuses, is #GP(0).
        - **Triple fault**: the vCPU stops for ever; the domain goes on.
        - **EPT violation**: an access to the registers of device d (guest physical `{boot.MMIO_BASE:#x}` +
          d * {boot.MMIO_SIZE:#x}, one page) is emulated if the device is assigned to the domain: 1, 2, 4 or 8
          bytes, naturally aligned, others read as zero and ignore writes. Any other access gets #GP(0); in the
          delivery of an exception, #DF or a triple fault by the rules of the processor.
          Devices 0 to {boot.DMA_ENGINES - 1} are DMA engines, {boot.VIRTIO_BLK} is a virtio block device and
          {boot.VIRTIO_NET} a virtio network device (`hvfuzz/machine/devices/` has their registers). Whatever
          a domain left in a device, its registers and the disk, is gone when the device is taken from it.
          Pages {boot.IOAPIC:#x} and {boot.TIMER:#x} of the window are the domain's own I/O APIC and timer
          (`hvfuzz/hypervisor/devices/`: `ioapic.py`, `timer.py`); a timer raises an event on a port of the domain.
          What is written to page {boot.COALESCED:#x} is queued in a ring in the guest's own memory, at guest
          physical {boot.COALESCED_GFN << PAGE_SHIFT:#x} by its direct map (`coalesced_mmio.py`); it reads as zero.
        """)
