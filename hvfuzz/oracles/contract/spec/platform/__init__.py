"""The specification of what a guest finds besides hypercalls: APIC, CPUID, MSRs, timer."""
