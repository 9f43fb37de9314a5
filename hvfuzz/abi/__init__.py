"""The ABI between guest and hypervisor, as data: declarations of calls, struct layouts, versions, status codes."""
