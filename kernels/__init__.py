"""Real kernels for N:M products and their timing. Nothing lives here yet: no figure of this release was timed on a device."""
