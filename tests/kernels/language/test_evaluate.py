"""Losses of a model in a configuration, held against transformers' own loss and against layers as their formulas stand."""

import itertools
import math

import numpy as np
import pytest
import torch

from kernels.language.evaluate import LanguageEvaluator
from kernels.language.model import LanguageModel
from nmsim import Pattern
from nmsim.errors import NmsimError
from nmsim.mitigation import golden, rewrite
from nmsim.mitigation.recipe import Recipe
from nmsim.quality import Configuration, Way, parse_mitigation
from nmsim.quality import apply as applied

WINDOW, CALIBRATION = 32, 64
DENSE = Configuration()


@pytest.fixture(scope="module")
def ids(tiny: LanguageModel) -> torch.Tensor:
    return torch.randint(tiny.vocabulary, (WINDOW * 20,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def evaluator(tiny: LanguageModel, ids: torch.Tensor) -> LanguageEvaluator:
    return LanguageEvaluator(tiny, ids, window_tokens=WINDOW, calibration_tokens=CALIBRATION)


def activations(
    pattern: str = "2:4", mitigation: str = "none", criterion: str = "magnitude"
) -> Configuration:
    way = Way("activations", Pattern.parse(pattern), criterion, parse_mitigation(mitigation))
    return Configuration(activations=way)


def weights(pattern: str = "2:4", mitigation: str = "none", criterion: str = "magnitude") -> Configuration:
    return Configuration(Way("weights", Pattern.parse(pattern), criterion, parse_mitigation(mitigation)))


def only(configuration: Configuration, layers: str) -> Configuration:
    return Configuration(configuration.weights, configuration.activations, layers)


def test_dense_losses_are_those_of_transformers(evaluator, tiny, ids):
    losses = evaluator.losses(DENSE, windows=18)
    windows = ids[CALIBRATION:].reshape(-1, WINDOW)
    expected = [float(tiny.module(input_ids=one[None], labels=one[None]).loss) for one in windows]
    assert losses == pytest.approx(expected, abs=1e-5)
    # A model of random weights knows nothing of a random text.
    assert np.mean(losses) > 0.9 * math.log(tiny.vocabulary)


@pytest.mark.parametrize(
    "configuration",
    [
        activations("2:4", "var"),
        activations("8:16", "dpts_mean+var"),
        activations("4:8", "lpts"),
        activations("2:4", criterion="amber"),
        weights("2:4", criterion="channel_vector"),
        weights("8:16", "weight_correction"),
        Configuration(weights("2:4").weights, activations("4:8", "dpts_median").activations),
    ],
    ids=str,
)
def test_losses_are_those_of_layers_as_their_formulas_stand(configuration, evaluator, tiny, ids):
    losses = evaluator.losses(configuration, windows=3)
    expected = formula_losses(configuration, evaluator, tiny, ids, windows=3)
    dense = evaluator.losses(DENSE, windows=3)
    assert losses == pytest.approx(expected, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(losses, dense, strict=True)) > 1e-3


def formula_losses(configuration, evaluator, tiny, ids, windows):
    """Every layer in float64, dense matrices, window by window; fitted numbers are taken over."""
    calibration = evaluator.calibration()
    saved = {name: layer.forward for name, layer in tiny.layers.items()}
    for name, layer in tiny.layers.items():
        weight = layer.weight.detach().double().numpy()
        if (way := configuration.weights) is not None:
            scores = np.abs(weight)
            if way.criterion == "channel_vector":
                scores = scores * np.sqrt(np.square(calibration[name].tokens.astype(np.float64)).sum(0))
            weight_mask = greatest(scores, way.pattern)
            kept = np.where(weight_mask, weight, 0)
            if way.find("weight_correction"):
                kept = kept * (weight.std(1) / kept.std(1))[:, None]
            weight = kept
        layer.forward = plain_forward(configuration.activations, weight, calibration[name].tokens)
    try:
        chosen = ids[CALIBRATION:].reshape(-1, WINDOW)[:windows]
        return [float(tiny.module(input_ids=one[None], labels=one[None]).loss) for one in chosen]
    finally:
        for name, layer in tiny.layers.items():
            layer.forward = saved[name]


def plain_forward(way, weight, tokens):
    def forward(x):
        flat = x.detach().double().numpy().reshape(-1, x.shape[-1])
        if way is None:
            y = flat @ weight.T
        else:
            shift = "none"
            if way.find("dpts_mean"):
                shift = "mean"
            elif way.find("dpts_median"):
                shift = "median"
            elif way.find("lpts"):
                shift = tokens.astype(np.float64).mean(0)
            recipe = Recipe(shift=shift, variance=bool(way.find("var")))
            y = golden.linear(flat, weight, way.pattern, recipe, criterion=way.criterion)
        return torch.from_numpy(y).float().view(*x.shape[:-1], -1)

    return forward


def greatest(scores, pattern):
    """N greatest of every M, the first of equal ones, group by group."""
    mask = np.zeros(scores.shape, bool)
    for row, first in itertools.product(range(len(scores)), range(0, scores.shape[1], pattern.m)):
        group = scores[row, first : first + pattern.m]
        mask[row, first + np.argsort(-group, kind="stable")[: pattern.n]] = True
    return mask


def test_a_mask_along_the_other_axis_is_noticed(evaluator, tiny, ids, monkeypatch):
    expected = formula_losses(weights(), evaluator, tiny, ids, windows=2)
    right = applied.pruned_weight

    def turned(weight, way, calibration=None):
        return right(np.ascontiguousarray(weight.T), way)._replace(
            weight=np.ascontiguousarray(right(np.ascontiguousarray(weight.T), way).weight.T)
        )

    monkeypatch.setattr("kernels.language.evaluate.pruned_weight", turned)
    assert evaluator.losses(weights(), windows=2) != pytest.approx(expected, abs=1e-4)


def test_a_shift_left_out_of_the_epilogue_is_noticed(evaluator, tiny, ids, monkeypatch):
    configuration = activations("2:4", "dpts_mean")
    expected = formula_losses(configuration, evaluator, tiny, ids, windows=2)
    right = rewrite.finish
    monkeypatch.setattr(
        rewrite, "finish", lambda acc, selected, prepared: right(acc, selected._replace(eta=None), prepared)
    )
    assert evaluator.losses(configuration, windows=2) != pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("configuration", [weights(), activations()], ids=str)
def test_what_lies_before_the_first_pruned_block_is_not_run_again(configuration, evaluator, tiny):
    later = only(configuration, "*.1.*down_proj")
    with_kept = evaluator.losses(later, windows=6)
    calls = []
    hook = tiny.layers["model.layers.0.mlp.up_proj"].register_forward_hook(lambda *_: calls.append(1))
    evaluator.losses(later, windows=6)
    hook.remove()
    assert not calls
    evaluator._kept = [[] for _ in evaluator._kept]
    assert evaluator.losses(later, windows=6) == with_kept


def test_fewer_windows_have_the_same_losses(evaluator):
    evaluator.losses(DENSE, windows=18)
    all_of_them = evaluator.losses(activations(), windows=18)
    assert evaluator.losses(activations(), windows=5) == pytest.approx(all_of_them[:5], abs=1e-6)


def test_layers_that_are_not_named_stay_dense(evaluator):
    every = evaluator.losses(weights(), windows=2)
    some = evaluator.losses(only(weights(), "!*.q_proj !*.down_proj"), windows=2)
    assert every != some != evaluator.losses(DENSE, windows=2)


def test_a_choice_that_looks_at_other_tokens_sees_its_window_only(evaluator):
    evaluator.losses(DENSE, windows=4)
    together = evaluator.losses(activations(criterion="clact"), windows=4)
    alone = [
        LanguageEvaluator(
            evaluator.model,
            evaluator._windows[[0, 1, 2 + number]].flatten(),
            window_tokens=WINDOW,
            calibration_tokens=CALIBRATION,
        ).losses(activations(criterion="clact"), windows=1)[0]
        for number in range(4)
    ]
    assert together == pytest.approx(alone, abs=1e-6)


def test_the_model_is_left_as_it_was(evaluator, tiny):
    before = {name: layer.weight.clone() for name, layer in tiny.layers.items()}
    dense = evaluator.losses(DENSE, windows=2)
    evaluator.losses(weights("2:4", "scale_shift"), windows=2)
    with pytest.raises(NmsimError, match="layer model"):
        evaluator.losses(activations("2:4", "r_sparse=4096"), windows=2)
    evaluator._dense = []
    assert evaluator.losses(DENSE, windows=2) == dense
    assert all(torch.equal(layer.weight, before[name]) for name, layer in tiny.layers.items())
    assert not any("forward" in vars(module) for module in tiny.module.modules())


@pytest.mark.parametrize("windows", [0, 19, True])
def test_more_windows_than_the_text_has_are_refused(evaluator, windows):
    with pytest.raises(NmsimError, match="expected 1 to 18"):
        evaluator.losses(DENSE, windows=windows)


@pytest.mark.parametrize(("window", "calibration"), [(1, 64), (32, 0), (True, 64)])
def test_windows_without_a_predicted_token_are_refused(tiny, ids, window, calibration):
    with pytest.raises(NmsimError, match="at least"):
        LanguageEvaluator(tiny, ids, window_tokens=window, calibration_tokens=calibration)
