"""The specification of the emulated platform: local APIC, CPUID, MSRs, timer."""
