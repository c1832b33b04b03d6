"""Times of compiled kernels from counts of their own machine code."""
