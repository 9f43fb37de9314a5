"""The system under test: a hypervisor for the emulated machine, booted by `core.boot.boot`."""
