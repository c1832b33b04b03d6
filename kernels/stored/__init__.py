"""N:M operands as kernels read them: containers, their checks, and where they may lie in memory."""
