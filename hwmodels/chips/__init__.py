"""One chip for every question: a machine, or a core design. Each is asked in the same words."""
