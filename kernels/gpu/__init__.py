"""Triton kernels, one file per operation, in two rooms above what they share: `products` and `movers`.

They run on CUDA devices. Tests run them on CPUs, as compiled code.

`kernels.ptx.emulated` has every kernel here run on tensors in main memory, as compiled for a GPU, slowly. So does Triton's
interpreter, but not as compiled: set `TRITON_INTERPRET=1` before triton is imported. `kernels.ops` calls the kernels on CUDA
tensors; no other room needs Triton.
"""
