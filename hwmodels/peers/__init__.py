"""The peers: simulators and an open GPU whose numbers are reproduced here, so that each difference from ours can be explained.

>>> from hwmodels import peers
>>> peers.sparseloop_cycles("M128-K1152-N1024-IAD0.44", "STC_flexible", "WD-0.25").cycles
66707
>>> peers.sparseloop_cycles("M128-K1152-N1024-IAD0.44", "STC_flexible", "WD-0.25", rounding=False).cycles
65829

Nothing of hwmodels is built on them. `docs/explanation/peers.md` sets them against ours, difference by difference.
"""

from hwmodels.peers.export import PEERS, Exported, export_peer
from hwmodels.peers.scalesim import ScalesimCycles, scalesim_cycles
from hwmodels.peers.sparseloop import DESIGNS, Reads, SparseloopCycles, sparseloop_cycles
from hwmodels.peers.vortex import VortexCycles, vortex_core, vortex_cycles

__all__ = [
    "DESIGNS",
    "PEERS",
    "Exported",
    "Reads",
    "ScalesimCycles",
    "SparseloopCycles",
    "VortexCycles",
    "export_peer",
    "scalesim_cycles",
    "sparseloop_cycles",
    "vortex_core",
    "vortex_cycles",
]
