"""The processor: its registers, rings, exceptions, ports and MSRs, and the VMCS that an exit leaves."""
