"""Targets: systems that run programs; the only one now is the emulated hypervisor."""
