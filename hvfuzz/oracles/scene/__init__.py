"""The system under watch: machine, hypervisor, and the exit and hypercalls that are running."""
