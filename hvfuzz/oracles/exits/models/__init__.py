"""The second model of each device model, from its data sheet or ABI.md, not from the hypervisor."""
