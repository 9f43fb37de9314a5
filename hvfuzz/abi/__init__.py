"""The contract between guest and hypervisor, as data: declarations, layouts, versions, status codes."""
