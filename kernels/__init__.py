"""Real kernels for N:M products, and their timing.

`cpu` takes numpy arrays and runs on any CPU. `ops` and the layers take torch tensors; on a CUDA device they need Triton.
Names are imported when they are first used, so `import kernels` and `kernels.cpu` leave torch out.

>>> import numpy as np
>>> from kernels import cpu
>>> weights = cpu.compress(np.array([[1, -4, 3, 2]], np.float32), "2:4")
>>> cpu.matmul(np.array([1, 10, 100, 1000], np.float32), weights).tolist()
[260.0]
"""

from typing import TYPE_CHECKING

from nmsim.support.lazy import lazy_exports

if TYPE_CHECKING:
    from kernels import cpu, ops
    from kernels.ops.layer import NMLinear, for_decode_, sparsify_
    from kernels.stored.errors import KernelError
    from kernels.stored.nm_weight import NMWeight
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "kernels.cpu": "",
            "kernels.ops": "",
            "kernels.ops.layer": "NMLinear for_decode_ sparsify_",
            "kernels.stored.errors": "KernelError",
            "kernels.stored.nm_weight": "NMWeight",
        },
        extras={"torch": "nmsim[gpu]"},
    )

__all__ = ["KernelError", "NMLinear", "NMWeight", "cpu", "for_decode_", "ops", "sparsify_"]
