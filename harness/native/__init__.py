"""The compiled kernels for CPUs, and the door to them."""
