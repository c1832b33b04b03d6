"""Sweep a small design space and print its Pareto front of time and area."""

import hwmodels

space = {
    "costs": True,
    "core": {"base": "flexible-8x16"},
    "axes": {
        "pattern": ["dense", "2:4", "8:16"],
        "encoding": ["combinatorial"],
        "tokens": [4096],
        "array_depth": [8, 16],
        "decoder_groups_per_cycle": [4, 16, 64],
    },
    "workload": {"shapes": [[14336, 4096]]},
}
points = hwmodels.sweep(space)
front = points[hwmodels.pareto_front(points, minimise=["time_s", "area_um2"])]
columns = ["pattern", "array_depth", "decoder_groups_per_cycle", "time_s", "area_um2", "limit"]
print(f"{len(points)} points, {len(front)} on the front")
print(front.sort_values("time_s")[columns].to_string(index=False))
