"""The system under test: a complete hypervisor for the emulated machine, booted by `boot.boot`."""
