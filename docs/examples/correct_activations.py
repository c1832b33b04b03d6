"""Prune activations to 8:16, and correct the error by a shift and by the variance."""

import numpy as np

from nmsim.mitigation import Recipe, golden, rewrite

rng = np.random.default_rng(2)
x, weight = rng.laplace(0.5, 1, (4, 256)), rng.standard_normal((64, 256))
exact = x @ weight.T
recipes = {
    "nothing": Recipe(),
    "shift": Recipe(shift="mean"),
    "shift and variance": Recipe(shift="mean", variance=True),
}
for name, recipe in recipes.items():
    y = golden.linear(x, weight, "8:16", recipe, criterion="amber")
    # The form that hardware would compute shares no arithmetic with the formula.
    assert np.allclose(y, rewrite.linear(x, weight, "8:16", recipe, criterion="amber"), rtol=1e-12)
    print(f"{name:20} output error {np.square(y - exact).sum() / np.square(exact).sum():.3f}")
