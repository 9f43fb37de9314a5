"""Per-vCPU state that the hypervisor emulates: run state, clock, local APIC, MSRs, CPUID."""
