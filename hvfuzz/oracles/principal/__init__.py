"""Whose exit it is: on its behalf the hypervisor acts, and by its tables its copies are translated."""
