"""Operands of products that a campaign times on a CUDA device: drawn there, and each thing made of them once.

Pruning here sorts, without our kernels. Results of the kernels are compared with it.
"""

from typing import Any

import numpy as np

from kernels.timing import gate
from nmsim.pattern import Pattern


class Operand:
    """A matrix on a device, with what was made of it so far.

    Parameters
    ----------
    torch : module
    dense : Tensor [rows, K]
    """

    def __init__(self, torch: Any, dense: Any) -> None:
        self._torch, self.dense = torch, dense
        self._pruned: dict[Pattern, Any] = {}
        self._packed: dict[tuple[Pattern, str], Any] = {}
        self._copies: dict[bool, list[Any]] = {False: [dense], True: []}

    def pruned(self, pattern: Pattern) -> Any:
        """Set what a pattern drops to zero: Tensor [rows, K]."""
        if pattern not in self._pruned:
            torch, (rows, k) = self._torch, self.dense.shape
            filled = torch.nn.functional.pad(self.dense, (0, -k % pattern.m))
            groups = filled.reshape(rows, -1, pattern.m)
            order = groups.float().abs().sort(dim=-1, descending=True, stable=True).indices
            keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., : pattern.n], True)
            self._pruned[pattern] = torch.where(keep, groups, 0).reshape(rows, -1)[:, :k].contiguous()
        return self._pruned[pattern]

    def packed(self, pattern: Pattern, encoding: str) -> Any:
        """Pack what `pruned` leaves: an `NMWeight`."""
        from kernels.ops import compress

        key = (pattern, encoding)
        if key not in self._packed:
            self._packed[key] = compress(self.pruned(pattern), f"{pattern}/{encoding}")
        return self._packed[key]

    def copy(self, place: int, *, k_major: bool = False) -> Any:
        """One of as many copies of the matrix as are asked for: Tensor [rows, K], or K-major [K, rows]."""
        copies, source = self._copies[k_major], self.dense.T if k_major else self.dense
        while len(copies) <= place:
            copies.append(source.clone(memory_format=self._torch.contiguous_format))
        return copies[place]


def drawn(torch: Any, rows: int, columns: int, dtype: Any, device: str, seed: list[int]) -> Any:
    """Draw numbers of either sign whose magnitudes lie in [0.5, 1.5), as `gate.operands`: Tensor [rows, columns]."""
    mixed = np.random.SeedSequence([*seed, rows, columns]).generate_state(1)[0]
    generator = torch.Generator(device=device).manual_seed(int(mixed))
    numbers = torch.rand(rows, columns, generator=generator, device=device)
    numbers = numbers * 2 * (gate.MOST - gate.LEAST) - (gate.MOST - gate.LEAST)
    return (numbers + torch.copysign(torch.full_like(numbers, gate.LEAST), numbers)).to(dtype)
