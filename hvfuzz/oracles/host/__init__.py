"""The host itself: the memory that the hypervisor touches, and the order in which it writes and flushes."""
