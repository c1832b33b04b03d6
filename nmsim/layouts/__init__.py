"""Memory orders of 2:4 metadata: which nibble lies where in the words that a kernel reads.

The path of a mask to the words, one module a step:

- `nibbles`: each group of a mask becomes one four-bit code, the same on every NVIDIA architecture;
- `orders`: the codes, gathered in words, are permuted; an order is a reshape and a transpose, so a bijection. The orders are
  those of Ampere, Hopper and Blackwell, and the plain linear one;
- `nvidia`: the public calls, which check their input and join the steps.

>>> import numpy as np
>>> from nmsim.layouts import nvidia_mask, nvidia_metadata
>>> mask = np.tile([True, False, False, True], (32, 8))
>>> words = nvidia_metadata(mask, arch="sm80", value_bits=16)
>>> words.dtype, words.shape, hex(words.view(np.uint16)[0, 0])
(dtype('int16'), (32, 2), '0xcccc')
>>> bool((nvidia_mask(words, mask.shape, arch="sm80") == mask).all())
True
"""

from nmsim.layouts.nibbles import EMPTY_NIBBLE, LEGAL_NIBBLES
from nmsim.layouts.nvidia import ARCHITECTURES, VALUE_BITS, nvidia_mask, nvidia_metadata, nvidia_offsets

__all__ = [
    "ARCHITECTURES",
    "EMPTY_NIBBLE",
    "LEGAL_NIBBLES",
    "VALUE_BITS",
    "nvidia_mask",
    "nvidia_metadata",
    "nvidia_offsets",
]
