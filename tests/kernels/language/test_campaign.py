"""Campaigns of losses: what a file may say, and which configurations it stands for."""

import itertools
import subprocess
import sys

import pytest

from kernels.language import campaign as campaigns
from kernels.measure.round import shipped
from nmsim.errors import NmsimError, SpecError
from nmsim.quality.configuration import Configuration

LAYERS = [f"model.layers.{block}.{kind}" for block in (0, 1) for kind in ("self_attn.q_proj", "mlp.up_proj")]
TOP = "calibration_tokens = 8\nwindow_tokens = 4\nwindows = 3\nbudget_s = 60\n"


@pytest.fixture
def load(tmp_path):
    def read(*sets, top=TOP):
        file = tmp_path / "mine.toml"
        file.write_text(top + "".join(f"\n[[set]]\n{text}\n" for text in sets))
        return campaigns.load(file)

    return read


def texts(campaign, layers=LAYERS):
    return [f"{one.windows} {one.configuration}" for one in campaign.evaluations(layers)]


def test_sets_are_crossed_after_the_dense_model(load):
    found = load(
        'operand = "activations"\npatterns = ["2:4", "8:16"]\nmitigations = ["none", "dpts_mean+var"]',
        'operand = "weights"\npatterns = ["3:10"]\ncriteria = ["unstructured"]\nwindows = 2',
        'operand = "activations"\npatterns = ["2:4"]',
    )
    assert texts(found) == [
        "3 dense",
        "3 activations 2:4 magnitude",
        "3 activations 2:4 magnitude dpts_mean+var",
        "3 activations 8:16 magnitude",
        "3 activations 8:16 magnitude dpts_mean+var",
        "2 weights 3:10 unstructured",
    ]


def test_both_operands_have_one_pattern(load):
    (_, first, second) = load(
        'operand = "both"\npatterns = ["2:4", "8:16"]\nmitigations = ["var"]\nvalues = ["int8/64"]\n'
        'weights_criteria = ["channel_vector"]\nweights_mitigations = ["weight_correction"]'
    ).evaluations(LAYERS)
    assert str(first.configuration) == (
        "weights 2:4 channel_vector weight_correction; activations 2:4 magnitude var int8/64/before"
    )
    assert {str(way.pattern) for way in (second.configuration.weights, second.configuration.activations)} == {
        "8:16"
    }


def test_values_alone_are_rounded(load):
    found = load('operand = "activations"\npatterns = ["dense"]\nvalues = ["int8/64", "int4/64"]')
    assert texts(found)[1:] == ["3 activations dense int8/64/before", "3 activations dense int4/64/before"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("each layer", LAYERS),
        ("each kind", ["*.q_proj", "*.up_proj"]),
        ("each block", ["model.layers.0.*", "model.layers.1.*"]),
        ("!*.q_proj", ["!*.q_proj"]),
        ("all", ["all"]),
    ],
)
def test_words_for_layers_become_layers_of_the_model(load, word, expected):
    found = load(f'operand = "weights"\npatterns = ["2:4"]\nlayers = ["{word}"]').evaluations(LAYERS)
    assert [one.configuration.layers for one in found[1:]] == expected


def test_every_word_names_layers_that_lie_in_no_block_once():
    assert campaigns.expand("each block", ["score", "0.up", "0.down"]) == ["0.*"]
    assert campaigns.expand("each kind", ["score", "0.up"]) == ["score", "*.up"]
    for globs in (campaigns.expand("each layer", LAYERS), campaigns.expand("each block", LAYERS)):
        # The parts of a split model: together all layers, and none twice.
        parts = [Configuration(layers=text).names(LAYERS) for text in globs]
        assert sorted(itertools.chain(*parts)) == sorted(LAYERS)


def test_fewer_windows_merge_what_is_then_the_same(load):
    found = load(
        'operand = "weights"\npatterns = ["2:4"]', 'operand = "weights"\npatterns = ["2:4"]\nwindows = 2'
    )
    assert texts(found) == ["3 dense", "3 weights 2:4 magnitude", "2 weights 2:4 magnitude"]
    assert texts(found.limited(2)) == ["2 dense", "2 weights 2:4 magnitude"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('operand = "weights"\npatterns = ["4:2"]', "patterns[0]='4:2': pattern 4:2: expected 1 <= N <= M"),
        ('operand = "weights"\npatterns = []', "set[0].patterns"),
        ('operand = "heads"\npatterns = ["2:4"]', "operand='heads': expected one of weights, activations, both"),
        ('operand = "weights"\npatterns = ["2:4"]\ncriteria = ["best"]', "'best'"),
        ('operand = "weights"\npatterns = ["2:4"]\nmitigations = ["var"]', "weights, magnitude, var: var is of pruned"),
        ('operand = "weights"\npatterns = ["2:4"]\ncriteria = ["clact"]', "weights, clact, none: clact is a criterion of"),
        ('operand = "both"\npatterns = ["2:4"]\nweights_criteria = ["clact"]', "weights, clact, none: clact is a criterion of"),
        ('operand = "activations"\npatterns = ["2:4"]\nmitigations = ["weight_correction"]', "is of pruned weights"),
        ('operand = "activations"\npatterns = ["2:4"]\nweights_criteria = ["magnitude"]', "goes with operand both only"),
        ('operand = "weights"\npatterns = ["dense"]', "dense goes with one operand and with values other than none"),
        ('operand = "weights"\npatterns = ["2:4"]\nvalues = ["int9/64"]', "expected intB/G/before or intB/G/after"),
        ('operand = "weights"\npatterns = ["2:4"]\nvalues = [8]', "expected text"),
        ('operand = "weights"\npatterns = ["2:4"]\nwindows = 4', "4: expected at most windows of the campaign, 3"),
        ('operand = "weights"\npatterns = ["2:4"]\npattern = "2:4"', "pattern"),
        ('patterns = ["2:4"]', "operand"),
    ],
)  # fmt: skip
def test_a_bad_set_is_refused_by_name(load, text, message):
    with pytest.raises(SpecError) as caught:
        load(text)
    assert "mine.toml" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (TOP.replace("= 8", "= 6"), "calibration_tokens: 6: expected a multiple of window_tokens, 4"),
        (TOP.replace("= 4", "= 1"), "window_tokens=1: expected at least 2 tokens"),
        (TOP.replace("budget_s = 60\n", ""), "budget_s"),
    ],
)
def test_a_bad_top_is_refused_by_name(load, top, message):
    with pytest.raises(SpecError) as caught:
        load('operand = "weights"\npatterns = ["2:4"]', top=top)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "message"),
    [("*.k_proj", "'*.k_proj' fits none of the model's 4 linear layers"), ("*.q_proj !*.q_proj", "leaves no layer")],
)  # fmt: skip
def test_layers_that_the_model_lacks_are_refused(load, layers, message):
    found = load(f'operand = "weights"\npatterns = ["2:4"]\nlayers = ["{layers}"]')
    with pytest.raises(NmsimError) as caught:
        found.evaluations(LAYERS)
    assert message in str(caught.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(SpecError, match=r"campaign 'acuracy': expected one of .*; did you mean 'accuracy"):
        campaigns.load("acuracy")


def test_campaigns_that_ship_load_without_torch():
    names = shipped(campaigns.CAMPAIGN_FOLDER)
    code = (
        "import sys; from kernels.language import campaign\n"
        f"for name in {names}: assert len(campaign.load(name).planned) > 5\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
