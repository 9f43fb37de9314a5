"""Host context: the hypervisor's state, boot, VM exits, and hypercall dispatch."""
