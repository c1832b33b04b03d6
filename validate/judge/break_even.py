"""Where 2:4 loses: predicted speedups of library products over tokens and weight size, for each GPU.

All products have 16-bit types and are the vendor's 2:4 product, the only sparse product of the libraries of all these GPUs.
In the map, operands come from DRAM, as the weights of a model do.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

import hwmodels
from hwmodels.estimate.intervals import REGIMES, regime_of
from nmsim.errors import RowError, brief

DTYPE = "bf16"
FAMILY = "library"
PATTERN = "2:4"
MAP_TOKENS = tuple(dict.fromkeys(round(2 ** (half / 2)) for half in range(29)))
MAP_SIDES = tuple(64 * round(2 ** (half / 2) / 64) for half in range(20, 29))
"""Out and in features of a square weight matrix, from 1024 to 16384 elements."""
SPEEDUP = "predicted_speedup_vs_dense"


def gpus_with_unit() -> list[str]:
    """Ids of the shipped GPUs on the market whose matrix unit takes 2:4 operands of 16 bits."""
    specs = [hwmodels.load_machine(name) for name in hwmodels.machine_names()]
    return [
        s.id for s in specs if s.family == "gpu" and not s.hypothetical and DTYPE in s.sparse_peak_flop_per_s
    ]


def speedup_map(machines: Sequence[str]) -> pd.DataFrame:
    """Predict a square 2:4 product for all `MAP_TOKENS` and `MAP_SIDES`.

    Parameters
    ----------
    machines : sequence of str
        Ids of GPUs with a sparse matrix unit.

    Returns
    -------
    DataFrame
        `machine`, `regime`, `M` tokens, `side` (N and K, in elements) and `predicted_speedup_vs_dense`, to 4 digits.
    """
    tokens, sides = (grid.ravel() for grid in np.meshgrid(MAP_TOKENS, MAP_SIDES, indexing="ij"))
    shape = pd.DataFrame({"M": tokens, "N": sides, "K": sides})
    inputs = shape.assign(
        dtype=DTYPE, baseline_dtype=DTYPE, pattern=PATTERN, kernel_family=FAMILY, density=0.5, l2_state=""
    )
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "machine": machine,
                    "regime": [regime_of(count) for count in tokens.tolist()],
                    "M": tokens,
                    "side": sides,
                    SPEEDUP: hwmodels.predict_rows(inputs, machine)[SPEEDUP].round(4).to_numpy(),
                }
            )
            for machine in machines
        ],
        ignore_index=True,
    )


def published_points(judged: pd.DataFrame) -> pd.DataFrame:
    """Keep the joined rows that the map is about: 16-bit 2:4 library products without host overhead.

    Returns
    -------
    DataFrame
        The rows, with `side`, the side of a square weight matrix of as many elements.
    """
    chosen = (judged["kernel_family"] == FAMILY) & (judged["dtype_class"] == "16-bit")
    rows = judged[chosen & (judged["mark"] != "host overhead")]
    return rows.assign(side=np.sqrt(rows["N"].astype(float) * rows["K"]))


def losses(points: pd.DataFrame, mapped: pd.DataFrame) -> pd.DataFrame:
    """Count the products that lose, for each machine and regime.

    Parameters
    ----------
    points, mapped : DataFrame
        From `published_points`, predicted by constants fitted without each machine, and from `speedup_map`.

    Returns
    -------
    DataFrame
        `machine`, `regime`, `n_rows` published, and the shares that lie below 1.0: `published_losing` and
        `predicted_losing` of those rows (NaN without rows), `map_losing` of the map.
    """
    out = []
    for machine in mapped["machine"].unique():
        for regime in REGIMES:
            own = points[(points["machine"] == machine) & (points["regime"] == regime)]
            here = mapped[(mapped["machine"] == machine) & (mapped["regime"] == regime)]
            out.append(
                {
                    "machine": machine,
                    "regime": regime,
                    "n_rows": len(own),
                    "published_losing": (own["measured_speedup_vs_dense"] < 1).mean() if len(own) else np.nan,
                    "predicted_losing": (own[SPEEDUP] < 1).mean() if len(own) else np.nan,
                    "map_losing": (here[SPEEDUP] < 1).mean(),
                }
            )
    return pd.DataFrame(out)


def break_even_side(mapped: pd.DataFrame, machine: str, tokens: int) -> int | None:
    """Find the least weight side of the map from which 2:4 wins up to the largest one; None if the largest loses.

    Raises
    ------
    RowError
        The map has no such machine or number of tokens.
    """
    row = mapped[(mapped["machine"] == machine) & (mapped["M"] == tokens)].sort_values("side")
    if row.empty:
        raise RowError(f"map of speedups: nothing for {brief(machine)} and {tokens} tokens")
    losing = np.flatnonzero(row[SPEEDUP].to_numpy() < 1)
    first = losing[-1] + 1 if len(losing) else 0
    return int(row["side"].iloc[first]) if first < len(row) else None
