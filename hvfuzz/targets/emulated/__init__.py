"""The emulated hypervisor as a target, and what can be told of a run on it: walk, cost, trace."""
