"""Error mitigations: what is done beside an N:M product to bring its result nearer to the dense one.

`golden` is each mitigation as its formula stands, `rewrite` the exact cheap form that hardware would run. They share the
record of what is asked, `Recipe`, and no arithmetic. `weights` and `outliers` are about pruned weights, `fit` finds parameters.
"""

from nmsim.mitigation.outliers import Split, split, split_columns, split_unstructured
from nmsim.mitigation.recipe import Recipe

__all__ = ["Recipe", "Split", "split", "split_columns", "split_unstructured"]
