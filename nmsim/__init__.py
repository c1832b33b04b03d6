"""Bit-exact N:M sparsity: patterns, masks, metadata encodings, packing, layouts, packed tensors.

>>> import numpy as np
>>> from nmsim import compress, decompress, prune
>>> x = np.array([[0.1, -3.0, 2.0, 0.5]], np.float32)
>>> prune(x, "2:4")
array([[False,  True,  True, False]])
>>> packed = compress(x, "2:4/combinatorial")
>>> packed.values.tolist(), packed.metadata.tobytes().hex()
([[-3.0, 2.0]], '02')
>>> decompress(packed)
array([[ 0., -3.,  2.,  0.]], dtype=float32)
"""

from typing import TYPE_CHECKING

from nmsim.support.lazy import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nmsim import encodings, layouts, packing
    from nmsim.case import Case, GemmShape, Prediction, case_id
    from nmsim.errors import NmsimError
    from nmsim.files.container import load_file, save_file
    from nmsim.format import SparseFormat
    from nmsim.mask import prune
    from nmsim.pattern import Pattern
    from nmsim.tensor import PackedTensor, compress, decompress
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "nmsim.case": "Case GemmShape Prediction case_id",
            "nmsim.encodings": "",
            "nmsim.errors": "NmsimError",
            "nmsim.format": "SparseFormat",
            "nmsim.files.container": "load_file save_file",
            "nmsim.layouts": "",
            "nmsim.mask": "prune",
            "nmsim.packing": "",
            "nmsim.pattern": "Pattern",
            "nmsim.tensor": "PackedTensor compress decompress",
        },
    )

__all__ = [
    "Case",
    "GemmShape",
    "NmsimError",
    "PackedTensor",
    "Pattern",
    "Prediction",
    "SparseFormat",
    "case_id",
    "compress",
    "decompress",
    "encodings",
    "layouts",
    "load_file",
    "packing",
    "prune",
    "save_file",
]
