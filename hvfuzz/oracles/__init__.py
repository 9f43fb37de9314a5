"""What must never happen: each oracle watches machine and hypervisor for one class of violation; `suite` runs them."""
