"""Triton kernels, one file an operation. They run on CUDA devices, and on CPUs through Triton's interpreter.

A process interprets or compiles: set `TRITON_INTERPRET=1` before triton is imported to have every kernel here run on
tensors in main memory, slowly. `kernels.ops` calls them on CUDA tensors; no other room needs Triton.
"""
