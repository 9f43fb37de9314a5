"""Cases of the comparison with QEMU: single requests with a fault, and sequences of requests and changes."""
