"""What a VM exit may do, with a second model of each device that the hypervisor emulates."""
