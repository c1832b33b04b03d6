"""Find what limits an 8:16 tensor core that nobody sells, and what removes the limit."""

from dataclasses import replace

import hwmodels
from nmsim import Case, GemmShape

case = Case(GemmShape(M=4096, N=14336, K=4096), "8:16/combinatorial")
core = hwmodels.load_core("flexible-8x16")
designs = {
    "as it is": core,
    "half the operand B bandwidth": replace(
        core, operand_b_bytes_per_cycle=core.operand_b_bytes_per_cycle // 2
    ),
    "twice the shared memory bandwidth": replace(
        core, shared_bytes_per_cycle=2 * core.shared_bytes_per_cycle
    ),
}
for change, design in designs.items():
    answer = hwmodels.predict_core(case, design)
    speedup = answer.predicted_speedup_vs_dense
    print(
        f"{change:35} {answer.cycles:,} cycles, {speedup:.2f} times as fast as dense, limit: {answer.limit}"
    )
