"""Machines that carry the same die: what one of them was seen to do says too much of the others to be called unseen."""

from collections.abc import Mapping

GROUPS: Mapping[str, tuple[str, ...]] = {
    "a100": ("a100-pcie", "a100-sxm"),
    "h100": ("h100-pcie", "h100-sxm", "h200", "h200-8x16", "h200-16x32"),
    "rtx3090": ("rtx3090", "rtx3080", "a40", "a10", "rtx-a6000"),
    "rtx4090": ("rtx4090", "l40s"),
    "rtx5090": ("rtx5090", "rtx-pro-6000-blackwell"),
}
"""Machines left out together because they carry the same die; every other machine is a group of its own."""


def group_of(machine: str) -> str:
    """Name the group of machines that is left out together with this one.

    Examples
    --------
    >>> group_of("h200"), group_of("rtx4090")
    ('h100', 'rtx4090')
    """
    return next((group for group, members in GROUPS.items() if machine in members), machine)
