"""Predict one product of a model on an H200, for one token and for 4096 tokens, with its interval and its bound."""

import hwmodels
from nmsim import Case, GemmShape

for tokens in (1, 4096):
    for storage in ("2:4/index", "8:16/combinatorial"):
        case = Case(GemmShape(M=tokens, N=14336, K=4096), storage)
        answer = hwmodels.predict(case, "h200")
        # The interval comes from measured rows of the same kind. For some kinds, nobody has published any.
        interval = f"{answer.predicted_speedup_low:.2f} to {answer.predicted_speedup_high:.2f}"
        print(
            f"{tokens:4} tokens, {storage:18} {answer.predicted_speedup_vs_dense:.2f} times as fast as dense "
            f"({interval if answer.comparable_rows else 'no measurements'}), "
            f"at most {answer.speedup_at_most:.2f}, limit: {answer.limit}"
        )
        print(f"     {answer.explanation}")
