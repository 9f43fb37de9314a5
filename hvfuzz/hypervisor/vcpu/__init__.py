"""What a vCPU has by the hypervisor: run state, clock, local APIC, MSRs, CPUID."""
