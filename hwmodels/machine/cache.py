"""A level of cache of a machine: how much it holds, and how fast it is read."""

from dataclasses import dataclass

from hwmodels.machine.quantity import Quantity

CACHE_NUMBERS = {
    "bytes": "bytes",
    "core_read_bandwidth_bytes_per_s": "bytes_per_s",
    "read_bandwidth_bytes_per_s": "bytes_per_s",
}
"""Numbers of a `CacheLevel` -> their units."""


@dataclass(frozen=True)
class CacheLevel:
    """One level of cache, as it was measured.

    `bytes` is what one core has to itself, or, where cores share it, all that there is. The first bandwidth is that
    of one core alone, the second that of all cores together.
    """

    level: str
    shared: bool
    bytes: Quantity
    core_read_bandwidth_bytes_per_s: Quantity
    read_bandwidth_bytes_per_s: Quantity
