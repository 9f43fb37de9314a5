"""A virtual CPU: its state, and the table of the instructions that a guest can execute on it."""

from hvfuzz.machine.cpu import exception_delivery
from hvfuzz.machine.cpu.instructions import control_registers, exiting, load_store, msr_accesses, port_io, rings
from hvfuzz.machine.cpu.processor_state import CpuState


class VCpu(CpuState):
    """A vCPU with all its instructions.

    Each method is one instruction. It charges the clock, and raises GuestFault if the guest gets an exception.
    """

    __slots__ = ()

    # Memory.
    load = load_store.load
    store = load_store.store
    execute = load_store.execute

    # Instructions that exit.
    vmcall = exiting.vmcall
    cpuid = exiting.cpuid
    rdtsc = exiting.rdtsc
    rdtscp = exiting.rdtscp
    hlt = exiting.hlt
    pause = exiting.pause

    # Rings and the interrupt flag.
    syscall = rings.syscall
    sysret = rings.sysret
    sysenter = rings.sysenter
    sysexit = rings.sysexit
    swapgs = rings.swapgs
    cli = rings.cli
    sti = rings.sti
    iret = rings.iret

    # Exceptions and interrupts.
    lidt = exception_delivery.lidt
    ltr = exception_delivery.ltr
    interrupt = exception_delivery.interrupt

    # Control registers and the TLB.
    mov_cr = control_registers.mov_cr
    read_cr = control_registers.read_cr
    invlpg = control_registers.invlpg
    invpcid = control_registers.invpcid

    # Model-specific registers.
    rdmsr = msr_accesses.rdmsr
    wrmsr = msr_accesses.wrmsr

    # Port I/O.
    inp = port_io.inp
    out = port_io.out
    ins = port_io.ins
    outs = port_io.outs
