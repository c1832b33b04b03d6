"""Sweep a small design space and print the Pareto front of time and area for each pattern."""

import hwmodels

space = {
    "costs": True,
    "core": {"base": "flexible-8x16"},
    "axes": {
        "pattern": ["dense", "2:4", "8:16"],
        "encoding": ["combinatorial"],
        "tokens": [4096],
        "array_depth": [8, 16, 32],
        "shared_bytes_per_cycle": [128, 256],
    },
    "workload": {"shapes": [[14336, 4096]]},
}
points = hwmodels.sweep(space)
front = points[hwmodels.pareto_front(points, minimise=["time_s", "area_um2"], within=["pattern"])]
columns = ["pattern", "array_depth", "shared_bytes_per_cycle", "time_s", "area_um2", "limit"]
print(f"{len(points)} points, {len(front)} of them on a front")
print(front.sort_values(["pattern", "time_s"])[columns].to_string(index=False))
