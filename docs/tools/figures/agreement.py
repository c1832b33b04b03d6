"""Closed form against simulator on drawn designs: the table of docs/explanation/tensor-core.md.

python docs/tools/figures/agreement.py
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
sys.path += [str(ROOT), str(ROOT / "tests")]
SEEDS, COUNT = 4, 500


def main() -> None:
    """Print a row for regular designs and a row for any."""
    from core_cases import designs

    from hwmodels.tensorcore.cycles import Cycles, closed_form
    from hwmodels.tensorcore.point import point
    from hwmodels.tensorcore.simulate import simulate

    for regular in (True, False):
        ratios = []
        for seed in range(SEEDS):
            for place, (case, core) in enumerate(designs(seed, COUNT, regular=regular)):
                bound = Cycles(*closed_form(np.array([point(core, case)]))[0]).cycles
                ratios.append(simulate(case, core, seed=place).cycles / bound)
        found = np.array(ratios)
        print(
            f"{'regular' if regular else 'any':8} {len(found)} drawn, {np.mean(found == 1):.1%} equal, "
            f"{np.mean(found <= 1.01):.2%} within 1 %, worst {found.max() - 1:.1%}, {np.sum(found < 1)} below"
        )


if __name__ == "__main__":
    main()
