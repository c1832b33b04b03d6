"""Predict one product of a model on an H200, for one token and for 4096 tokens, with its interval and its bound."""

import hwmodels
from nmsim import Case, GemmShape

for tokens in (1, 4096):
    for storage in ("2:4/index", "8:16/combinatorial"):
        case = Case(GemmShape(M=tokens, N=14336, K=4096), storage)
        answer = hwmodels.predict(case, "h200")
        print(
            f"{tokens:4} tokens, {storage:18} {answer.predicted_speedup_vs_dense:.2f} times as fast as dense "
            f"({answer.predicted_speedup_low:.2f} to {answer.predicted_speedup_high:.2f}), "
            f"at best {answer.bound_speedup_vs_dense:.2f}, limited by {answer.limit}"
        )

# The explanation says what the figure rests on: nobody has published an 8:16 kernel.
print(answer.explanation)
