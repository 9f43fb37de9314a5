"""The device models that the hypervisor emulates for each domain."""
