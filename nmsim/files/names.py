"""The words by which names of tensors tell what a tensor is: one pattern per kind, and the parts of a name.

Words are matched in lower case, against single parts of a dotted name unless a comment says otherwise.
"""

import re
from functools import lru_cache
from typing import NamedTuple


class Parts(NamedTuple):
    """A name cut at its dots.

    Parameters
    ----------
    name : str
    leaf : str
        The parameter, such as `weight`.
    modules : tuple of str
        The parts before it.
    last, above : str
        The last two modules that are no numbers, in lower case.
    before : str
        What lies before the first number, in lower case; all modules if there is none.
    layer : str
        The path up to and including the first number; "" if there is none.
    below : str
        What comes after it, in lower case.
    path : str
        All parts that are no numbers, in lower case. Few names differ in it.
    number : int or None
        The first number.
    """

    name: str
    leaf: str
    modules: tuple[str, ...]
    last: str
    above: str
    before: str
    layer: str
    below: str
    path: str
    number: int | None


@lru_cache(maxsize=1 << 16)
def says(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Search a pattern in a part of a name. Parts repeat from layer to layer, so that each is searched once."""
    return pattern.search(text)


WRAPPERS = frozenset({"base_layer", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules that training tools put around others."""

WEIGHT_LEAF = re.compile(
    r"^(weight|weight_[ih]h_l\d+(_reverse)?|.*(proj|linear|fc\d?|w\d+|mlp\d?)_weight)$", re.I
)
BIAS = re.compile(r"(^|_)bias(es)?$|^bias_", re.I)
STATE_SPACE = re.compile(
    r"^(a_log|dt_bias|d|a_logs|ssm_(a|d|conv1d|dt_bias)|conv1d|time_(decay|first|faaaa|mix_\w|maa_\w+)|x_conv1d|q_conv1d|k_conv1d|"
    r"v_conv1d)$",
    re.I,
)
NORM = re.compile(r"norm|^(ln|bn|gn)(_.*|\d*)$", re.I)
POSITION = re.compile(
    r"^wpe$|(?<![a-z])position(?!_?wise)|pos_?emb|embed_positions|rel_pos|relative_attention_bias|"
    r"^rotary_(pos_)?emb|rope_freqs|inv_freq|alibi|pos_conv|distance_embedding|relative_bias",
    re.I,
)
EMBEDDING = re.compile(
    r"^(wte|emb|embd|embed|embeds|embedding|embeddings|embedder|shared|lookup|embed_in|codebooks?)$|"
    r"_(embed|embeds|embd|emb|embedding|embeddings)$|^(tok|word|token)_?(emb|embed|embeddings?|embd)|embed_tokens"
)
PATCHES = re.compile(r"patch_embed|patch_embd|patchify|conv_stem|(^|\.)stem\.")
"""Matched against the path."""
HEAD = re.compile(
    r"(^|\.)(\w+_)?heads?(\.|$)|lm_head|embed_out|output_layer|(^|\.)scores?(\.|$)|classifier|(^|\.)cls(\.|$)|qa_outputs|"
    r"vocab_projector|vocab_transform|pooler|predictions|logits|unembed|seq_relationship|out_head|text_projection|visual_projection|"
    r"v_head|value_head|reward|(^|\.)fc_out(\.|$)"
)
"""Matched against what lies before the first number."""
HEAD_IN_LAYER = re.compile(r"^((lm|exit|output|cls)_)?heads?$|^(classifier|score|embed_out|unembed)$")
DRAFT = re.compile(
    r"(^|\.|_)(mtp|medusa|eagle\d*|nextn|drafter|speculator|hydra)(_|\.|\d|$)|(^|\.)(eh_proj|shared_head|midlayer|draft_model)(\.|$)",
    re.I,
)
"""Matched against the path."""
DRAFT_MARKS = re.compile(r"(^|\.)(eh_proj|enorm|hnorm|shared_head)(\.|$)|nextn")
"""Parts that only a draft head has, matched against what lies below a layer."""
ADAPTER = re.compile(
    r"(^|\.|_)(lora|loha|lokr|hada|ia3|dora|vera)_\w+|(^|\.)(lora_[ab]|prompt_encoder|adapters?)(\.|$)", re.I
)
"""Matched against the path."""
TOWER = re.compile(
    r"(^|\.)(visual|vision|vit|v|mm|img_processor|image_encoder|audio_encoder|audio_tower|vision_\w+|audio_\w+|image_newline|"
    r"multi_modal_projector|mm_projector|mlp1|aligner|modality_projection|connector|resampler|perceiver\w*|image_projection|"
    r"embed_vision|embed_audio|speech_\w+)(\.|$)"
)
"""Matched against the path."""
DUAL_ENCODER = re.compile(r"(^|\.)(logit_scale|text_projection|visual_projection)(\.|$)")
ROUTER = re.compile(
    r"^(gate|gating|wg|switch|moe_gate|expert_gate|router_gate|gate_inp)$|router|gating_network|gate_network|gate_inp$|"
    r"expert\w*_gate$"
)
ROUTERS = (
    "router.layer.weight",
    "router.weight",
    "gate.weight",
    "router.classifier.weight",
    "gate.wg.weight",
)
"""Routers beside experts that one matrix holds."""
ROUTER_LAST = re.compile(
    r"^(layer|classifier|proj|linear|wg|weight|dense|fc|head|gate|gating|score|l\d|fc\d|router)$"
)
"""The last module of a router that has modules of its own."""
KNOWN_LINEAR = re.compile(
    r"^(\w*_)?(q|k|v|o|qkv|kv|qk|query|key|value|out|dense|fc\d?|proj|up|down|wq|wk|wv|wo|wqkv|w\d|w\d_weight|v1|to_[qkv]|to_out|"
    r"c_attn|c_proj|c_fc|q_attn|lin\d?|dense_h_to_4h|dense_4h_to_h|query_key_value|in_proj_weight|linear\d?|mlp|fc_in|fc_out|up_proj|"
    r"down_proj|gate_proj|gate_up_proj|qkv_proj|q_lin|k_lin|v_lin|out_lin|receptance|attn_(q|k|v|qkv|output)|ffn_(up|down|gate)|"
    r"\w+_proj(_with_mqa|_ba|_qkvz|_a|_b)?)$|^(wi_\d|wi)$",
    re.I,
)
"""Names of linear layers that are so by themselves, in any size."""
BODY_OUTSIDE = re.compile(
    r"^(project_in|project_out|embeddings_project|embed_proj|embedding_hidden_mapping_in|per_layer_model_projection)$"
)
"""Linear layers of the body that lie outside of the numbered layers."""
CONVOLUTION = re.compile(r"conv")
TRANSPOSED = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
"""Layers that GPT-2 and its heirs store as [in, out]; others use the names and store [out, in]."""
TRANSPOSED_MODELS = frozenset({"gpt2", "imagegpt", "openai-gpt", "decision_transformer"})
FUSED_IN = re.compile(r"^(gate_up_proj|gate_and_up_proj|input_linear|w13(_weight)?|wi(_\d)?|ffn_\w+_exps)$")
FUSED_OUT = re.compile(
    r"^(down_proj|output_linear|w2(_weight)?|wo|ffn_down_exps|out_proj|fc2|linear_2|mlp2_weight)$"
)
"""Experts' matrices that write the hidden size."""
