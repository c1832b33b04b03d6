"""A real sparse product on this CPU, without torch, compared with the dense product of the same values."""

import numpy as np

from kernels import cpu

rng = np.random.default_rng(1)
dense = rng.standard_normal((1024, 4096)).astype(np.float32)
tokens = rng.standard_normal((2, 4096)).astype(np.float32)

weights = cpu.compress(dense, "8:16/index")
product = cpu.matmul(tokens, weights, threads=2)  # float32 [2, 1024]

expected = tokens @ cpu.decompress(weights).T
print(product.shape, f"largest difference {np.abs(product - expected).max():.1e}")
assert np.allclose(product, expected, atol=1e-3)
