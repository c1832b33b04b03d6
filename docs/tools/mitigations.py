"""The page on criteria and mitigations: formula, cheap form, and the counts of `hwmodels.online`."""

import dataclasses
import pydoc
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pandas as pd

from hwmodels.online.mitigations import CRITERIA, MITIGATIONS, OF_WEIGHTS, StageCost
from hwmodels.online.overheads import model_table, stage_costs, sum_layers
from nmsim.case import GemmShape
from nmsim.cli.models import cost_columns
from nmsim.mitigation import Recipe

MODEL, LAYER, PATTERN, DTYPE, TOKENS = "llama-3.1-8b", "gate", "8:16", "bf16", 4096


class Entry(NamedTuple):
    """Facts beside the counts: the formula, the reason why the cheap form is exact, the golden model."""

    formula: str
    exact: str
    golden: str


ENTRIES = {
    "magnitude": Entry(
        "keep the N greatest |x_ij| of every M",
        "The sign is left out of the key. The other bits of a float order magnitudes as its value does.",
        "`nmsim.criteria.magnitude`",
    ),
    "clact": Entry(
        "S_ij = |x_ij| sqrt(sum_p x_pj^2) / sqrt(sum_k x_ik^2)",
        "The norm of the row is the same for all of a group and cannot change a choice. With one token the norm of the "
        "column is |x_j| itself. So S has the order of x_j^2, and the choice is that of the magnitude.",
        "`nmsim.criteria.clact`",
    ),
    "amber": Entry(
        "S_ij = |x_ij| f_j, f_j = |What_:j| / min_k |What_:k|, What = (W - mu) / sigma",
        "f depends on the weights alone and is made once.",
        "`nmsim.criteria.amber_vector`",
    ),
    "weight_variance": Entry(
        "S_ij = |x_ij Var_o(w_oj)|",
        "The variances depend on the weights alone and are made once.",
        "`nmsim.criteria.weight_variance_vector`",
    ),
    "channel_vector": Entry(
        "S_ij = |x_ij f_j| with a vector f that is given",
        "It is the formula itself. Signs of f are left out when f is stored.",
        "`nmsim.criteria.channel_vector`",
    ),
    "ria": Entry(
        "S_ij = (|x_ij| / sum_k |x_ik| + |x_ij| / sum_p |x_pj|) sqrt(|f_j|) with a vector f of norms that is given",
        "It is the formula itself, with |x_ij| taken out of the bracket. It is a criterion of weights, made once. Of tokens it "
        "would wait for the sequence.",
        "`nmsim.criteria.ria`",
    ),
    "unstructured": Entry(
        "keep the k greatest |x_ij| of a token, k = K N/M rounded down",
        "All keys above the k-th greatest are kept. Of the keys equal to it, the first ones are kept until k are. These are "
        "the same elements that sorting the token would give.",
        "`nmsim.criteria.best_of_tokens`",
    ),
    "unstructured_channel_vector": Entry(
        "keep the k greatest |x_ij f_j| of a token, k = K N/M rounded down, with a vector f that is given",
        "As `channel_vector`, then as `unstructured`.",
        "`nmsim.criteria.choose`",
    ),
    "unstructured_global": Entry(
        "keep the k greatest |x_ij| of all L tokens, k = L K N/M rounded down",
        "As `unstructured`, with all tokens as one. The authors' code does so if it prunes by CLACT or Amber without "
        "groups. Those multiply scores first, as above.",
        "`nmsim.criteria.choose`",
    ),
    "dpts_mean": Entry(
        "Y = (prune(X - eta) + eta) W^T, eta_i = sum_j x_ij / K",
        "eta_i is one number of the token. So it adds eta_i r_o to the result, with the row sums r = W 1, made once. Added to "
        "the operand it would make X dense again.",
        '`Recipe(shift="mean")`',
    ),
    "dpts_median": Entry(
        "Y = (prune(X - eta) + eta) W^T, eta_i the lower median of x_i",
        "As `dpts_mean`. The median is the greatest value that at least K - floor((K - 1) / 2) elements reach. Its bits "
        "are found one by one, from the top.",
        '`Recipe(shift="median")`',
    ),
    "spts": Entry(
        "Y = (prune(X - eta) + eta) W^T with one number eta",
        "eta adds the same to all tokens: a bias eta W 1, made once.",
        "`Recipe(shift=eta)`, `nmsim.mitigation.fit.static_shift`",
    ),
    "lpts": Entry(
        "Y = (prune(X - eta) + eta) W^T with a vector eta of K elements",
        "eta adds the same to all tokens: a bias W eta, made once.",
        "`Recipe(shift=vector)`, `nmsim.mitigation.fit.channel_shift`",
    ),
    "var": Entry(
        "Y = (v_i Xsp) W^T, v_i = sqrt(Var_j(x_ij) / max(Var_j(xsp_ij), 1e-9)), unbiased, zeros included",
        "v_i is one number of the token and commutes with the product: v_i (Xsp W^T). Both variances are divided by K - 1, "
        "which cancels. (K - 1) Var is a sum of squares less the square of a sum over K.",
        "`Recipe(variance=True)`",
    ),
    "scale_shift": Entry(
        "Y = (Xsp W^T) (1 + s) + b with s, b of N elements",
        "It is the formula itself. 1 + s can also be folded into the rows of W, and b into a bias.",
        "`Recipe(scale=s, bias=b)`, `nmsim.mitigation.fit.scale_and_bias`",
    ),
    "bias1": Entry(
        "Y = Xsp W^T + Xsp b with b of K elements",
        "Dropped elements add nothing to the dot product, so it has one term per kept element.",
        "`Recipe(kept_bias=b)`, `nmsim.mitigation.fit.token_bias`",
    ),
    "bias2": Entry(
        "Y = Xsp W^T + (X - Xsp) b with b of K elements",
        "X - Xsp holds the dropped elements, and zero elsewhere: one term per dropped element.",
        "`Recipe(dropped_bias=b)`, `nmsim.mitigation.fit.token_bias`",
    ),
    "r_sparse": Entry(
        "Y = Xsp W^T + ((X - Xsp) B^T) A^T with A [N, r], B [r, K]",
        "It is the formula itself, in the order of its brackets: r (K + N) multiply-adds per token.",
        "`Recipe(low_rank=(A, B))`, `nmsim.mitigation.fit.low_rank`",
    ),
    "smooth_dynamic": Entry(
        "Y = prune(X / s) (W s)^T, s_j = sqrt(max_i |x_ij| / max_o |w_oj|)",
        "s_j divides x_ij and multiplies w_oj, so it cancels in every product. Only its effect on the choice remains. With one "
        "token |x_j| / s_j = sqrt(|x_j| max_o |w_oj|), which has the order of |x_j| max_o |w_oj|.",
        '`Recipe(equalise="dynamic")`',
    ),
    "smooth_static": Entry(
        "Y = prune(X / s) (W s)^T with s from calibration",
        "s is known, so W s is stored. 1 / s goes into the operation that makes X, such as the gain of a norm.",
        "`Recipe(equalise=s)`",
    ),
    "weight_correction": Entry(
        "W'_o = Wsp_o sqrt(Var(W_o) / Var(Wsp_o)), zeros included",
        "The factor of a row of pruned weights is known. It is stored in their values.",
        "`nmsim.mitigation.weights.corrected`",
    ),
    "rotation": Entry(
        "Y = prune(X Q) (W Q)^T with Q of K by K elements, orthogonal",
        "W Q is stored. X Q is a product of its own, unless Q can be folded into the operation that makes X.",
        "`Recipe(rotation=Q)`",
    ),
    "outliers": Entry(
        "Y = Xsp W^T + Xout W^T, Xout n of every 256, Xsp N of every M, no element in both; of weights X Wsp^T + X Wout^T",
        "The sum of the products is the product of the sum. The order of the two parts changes the choice and no count.",
        "`nmsim.mitigation.outliers.split`",
    ),
    "outliers_unstructured": Entry(
        "Y = Xsp W^T + Xout W^T, Xout the K n/256 greatest of a token, Xsp N of every M, no element in both; of weights "
        "X Wsp^T + X Wout^T, Wout of a row",
        "The sum of the products is the product of the sum. The greatest of a token are found as by `unstructured`.",
        "`nmsim.mitigation.outliers.split_unstructured`",
    ),
    "salient_columns": Entry(
        "Y = Xsp W^T + X_c W_c^T over c columns that are kept whole, which the N:M part leaves out",
        "No element is in both parts, so the sum of the products is the product of the sum.",
        "`nmsim.mitigation.outliers.split_columns`",
    ),
}

PARTS = {
    "producer": "beside the operation that makes X",
    "selector": "at the selector",
    "epilogue": "on rows of Y",
    "side path": "a second product beside the main one",
    "offline": "once, before any token",
}

HEAD = f"""# Criteria and mitigations

A criterion chooses the elements that are kept. A mitigation brings the result of an N:M product nearer to the dense one.
This page has the formula of each, the exact form with the fewest operations, the reason why the two are equal, and the cost.
`make docs` makes it from `hwmodels.online`. For another model, layer, pattern or type: `nmsim mitigations --model {MODEL}
--layer {LAYER} --pattern {PATTERN} --dtype {DTYPE} --tokens {TOKENS}`.

Y = X W^T. X has tokens i by in features j (K of them). W has out features o (N of them) by in features. `Xsp` is X pruned,
`prune` keeps N of every M along K of a token. Formulas of activations are those of the [code of arXiv
2509.22166](https://github.com/On-Point-RND/Structured-Sparse-Activations-Inference) [C]. arXiv 2507.03052 names patterns
for salient weights and the correction of weights [P]. Its formulas were not read. Those here are ours, n of 256 among them.
Salient columns are after arXiv 2408.15300. RIA is that of arXiv 2402.12419 and the code of its authors. [P]: read in the
paper's own text; [C]: in the authors' code. `Recipe` is `nmsim.mitigation.Recipe`. `nmsim.mitigation.golden` computes it by the
formula, and `nmsim.mitigation.rewrite` in the cheap form. The tests compare the two.

Counts are exact and belong to the form that is shown:

- **In the selector**: comparisons in its network.
- **Side multiply-adds**: those of a second product, on lanes or on the array. They are also given as a share of the
  multiply-adds that the pattern leaves of the product itself.
- All other operations run on vector lanes. Operations are per token. Bytes are of all tokens together, in units of 1000.
- **Parameters**: bytes from DRAM beside the weights.
- **L2** and **shared**: bytes read and written for parameters and for elements that wait.
- **Held**: bytes that wait at one time.

A choice that waits for its group **streams**. A choice that waits for the token or the sequence reads X several times.

The layer is `{LAYER}` of {MODEL}, the model all its pruned layers; {PATTERN}, {DTYPE}. Prefill has {TOKENS} tokens, decode one.
Each layer chooses for itself here. Layers that share X (q, k and v; gate and up) could share a choice, and the work before it.
"""


def page() -> str:
    """The whole page as Markdown."""
    assert set(ENTRIES) == {*CRITERIA, *MITIGATIONS}, "an entry for each name, and no other"
    layers = model_table(MODEL, PATTERN, dtype=DTYPE, tokens=TOKENS)
    model = sum_layers(layers)
    layer = layers[layers["layer"] == LAYER]
    parts = [HEAD, *_overview(model)]
    for title, names in (("Criteria", CRITERIA), ("Mitigations", MITIGATIONS)):
        parts.append(f"## {title}\n")
        for name in names:
            parts.extend(_section(name, layer[layer["name"] == name], model[model["name"] == name]))
    return "\n".join(parts)


def _overview(model: pd.DataFrame) -> Iterator[str]:
    """All names in one table: what they wait for, and lane operations beside the product's multiply-adds."""
    yield f"## At a glance: {MODEL}, all layers\n"
    yield "Operations of vector lanes and side multiply-adds are relative to the multiply-adds that the pattern leaves.\n"
    yield "| | waits for, decode | waits for, prefill | passes over X | operations on lanes | side multiply-adds |"
    yield "|---|---|---|---|---|---|"
    decode, prefill = (model[model["phase"] == phase].set_index("name") for phase in ("decode", "prefill"))
    kinds = ["multiplies_per_token", "adds_per_token", "compares_per_token", "specials_per_token"]
    for name, row in prefill.iterrows():
        lanes = row[kinds].sum() / row["sparse_macs_per_token"]
        waits = f"{decode['waits_for'][name]} | {row['waits_for']} | {row['passes']}"
        shares = " | ".join(f"{share:.2%}" if share else "" for share in (lanes, row["share_of_sparse_macs"]))
        yield f"| [`{name}`](#{name}) | {waits} | {shares} |"
    yield ""


def _section(name: str, layer: pd.DataFrame, model: pd.DataFrame) -> Iterator[str]:
    entry = ENTRIES[name]
    _check_golden(entry.golden)
    yield f"### {name}\n"
    yield _item("-", f"**Formula**: `{entry.formula}`")
    yield _item("-", f"**Why the cheap form is exact**: {entry.exact}")
    yield _item("-", f"**Golden model**: {entry.golden}")
    if name in OF_WEIGHTS:
        yield _item("-", "It can be used with sparse weights too.")
    yield ""
    decode, prefill = (_stages(name, tokens) for tokens in (1, TOKENS))
    if [one.formula for one in decode] == [one.formula for one in prefill]:
        yield from _steps("Steps", prefill)
    else:
        yield from (*_steps("Steps in decode", decode), *_steps("Steps in prefill", prefill))
    yield from _costs(layer, model)


def _item(mark: str, text: str) -> str:
    """An item of a list, in lines of at most 128 characters."""
    indent = " " * (len(mark) + 1)
    lines = textwrap.wrap(text, 128 - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"{mark} " + f"\n{indent}".join(lines)


def _stages(name: str, tokens: int) -> tuple[StageCost, ...]:
    criterion, mitigation = (name, "") if name in CRITERIA else (None, name)
    return stage_costs(
        GemmShape(tokens, 4096, 4096), PATTERN, dtype=DTYPE, criterion=criterion, mitigation=mitigation
    )


def _steps(title: str, stages: Iterable[StageCost]) -> Iterator[str]:
    yield f"{title}:\n"
    for number, stage in enumerate(stages, start=1):
        passes = f", {stage.passes} passes" if stage.passes > 1 else ""
        waits = "" if stage.streams else f" It waits for the {stage.waits_for}{passes}."
        yield _item(
            f"{number}.",
            f"{stage.name}, {PARTS[stage.part]}: `{stage.formula}`.{waits} Reason: {stage.why}.",
        )
    yield ""


def _costs(layer: pd.DataFrame, model: pd.DataFrame) -> Iterator[str]:
    rows = pd.concat([layer, model], ignore_index=True)
    columns = {heading: cells for heading, cells in cost_columns(rows).items() if any(cells)}
    if not columns:
        yield "It needs no operations per token and no bytes.\n"
        return
    whose = [
        f"{'model' if one == 'all' else 'layer'}, {phase}"
        for one, phase in zip(rows["layer"], rows["phase"], strict=True)
    ]
    yield _line(["", *columns])
    yield "|---" * (1 + len(columns)) + "|"
    yield from map(_line, zip(whose, *columns.values(), strict=True))
    yield ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _check_golden(text: str) -> None:
    """Names of golden models are names of the package, and recipes have the fields that are named."""
    fields = {field.name for field in dataclasses.fields(Recipe)}
    for name in re.findall(r"`([^`]+)`", text):
        if name.startswith("Recipe("):
            assert set(re.findall(r"(\w+)=", name)) <= fields, name
        else:
            assert pydoc.locate(name) is not None, name
