"""Real kernels for N:M products, and their timing. `kernels.cpu` runs on any CPU and needs numpy and numba only."""
