"""The parts of a `config.json`: the text part, what is left out, and what `architectures` makes of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hwmodels.models.families import Family, family_names, find_family, refusal, wrappers
from nmsim.errors import SpecError, brief

TEXT_PARTS = (
    "text_config",
    "llm_config",
    "language_config",
    "thinker_config",
    "language_model_config",
    "transformer_layer_config",
)
"""Keys under which the text part stands; `thinker_config` has one more inside."""
OTHER_PARTS: Mapping[str, str] = {
    "vision_config": "vision",
    "vision_tower": "vision",
    "mm_vision_tower": "vision",
    "vision_model": "vision",
    "visual": "vision",
    "img_processor": "vision",
    "embd_layer": "vision and audio",
    "vq_config": "image tokeniser",
    "audio_config": "audio",
    "audio_processor": "audio",
    "talker_config": "talker",
    "token2wav_config": "speech",
}
End = Literal["lm_head", "labels", "none"]
HEADED = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForImageTextToText", "ForVision2Seq", "ForVisionText2Text",
    "ChatModel", "LMHeadModelForCausalLM",
)  # fmt: skip
DRAFTS = (
    "eagle",
    "medusa",
    "mtp",
    "nextn",
    "speculator",
    "hydra",
    "draft",
    "dflash",
    "kangaroo",
    "assistant",
)
LABELLED = (
    "ForSequenceClassification", "RewardModel", "ForRewardModel", "ForTokenClassification", "ForQuestionAnswering",
    "ForRewardModelling", "ForProcessRewardModel", "ForScore", "ForMultipleChoice",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """A configuration taken apart.

    Attributes
    ----------
    text : mapping
        Keys of the text part.
    family : Family
    end : str
        "lm_head", "labels" (a head over `labels` classes) or "none".
    labels : int
        Outputs of a head over labels, 0 if there is none.
    draft : str
        "eagle" or "eagle3" for a draft head, else empty.
    notes : tuple of str
    two_scores : bool
        Whether the head over labels has a hidden layer, as reward models of Qwen2 have.
    """

    text: Mapping[str, Any]
    family: Family
    end: End
    labels: int
    draft: str
    notes: tuple[str, ...]
    two_scores: bool = False


def take_apart(config: Mapping[str, Any], *, where: str) -> Parts:
    """Find the text part of a configuration, its family, and what the model ends in.

    Raises
    ------
    SpecError
        An unknown or refused `model_type`, parts that are no objects, or keys that contradict each other.
    """
    notes: list[str] = []
    text, kind = _text_part(config, notes, where)
    family = find_family(kind)
    if family is None:
        raise SpecError(f"{where}: {refusal(kind)}")
    if config.get("is_encoder_decoder") is True:
        raise SpecError(
            f"{where}: is_encoder_decoder=true: an encoder with a decoder; expected a decoder-only model"
        )
    architecture = _architecture(config, where)
    _check_architecture(architecture, kind, family, where)
    draft = _draft(architecture, text, notes, where)
    end, labels = _end(architecture, family, config, text, where)
    if end == "labels":
        notes.append(
            f"architectures says {architecture}: a head over {labels} labels in place of the output head"
        )
    elif end == "none":
        notes.append(f"architectures says {architecture}: no output head")
    layers = text.get("num_nextn_predict_layers")
    if isinstance(layers, int) and layers > 0:
        notes.append(f"{layers} layer(s) that draft the next token (num_nextn_predict_layers) are left out")
    two = architecture in ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel")
    return Parts(text, family, end, labels, draft, tuple(notes), two)


def _text_part(config: Mapping[str, Any], notes: list[str], where: str) -> tuple[Mapping[str, Any], str]:
    """Go down to the text part and note what is left out; its `model_type` may follow from that of the whole."""
    kind = config.get("model_type")
    if "medusa_num_heads" in config:
        raise SpecError(
            f"{where}: medusa_num_heads: Medusa heads are not modelled; expected a whole model or an EAGLE head"
        )
    # A speculator has no type of its own, but that of the layer inside.
    nested = config.get("transformer_layer_config")
    if kind is None and isinstance(nested, Mapping):
        kind = nested.get("model_type")
    if kind is None:
        raise SpecError(f"{where}: model_type: missing; this key is required")
    if not isinstance(kind, str) or not kind:
        raise SpecError(f"{where}: model_type={brief(kind)}: expected text, such as llama")
    text = config
    left_out = _other_parts(config)
    while (name := next((each for each in TEXT_PARTS if text.get(each) is not None), None)) is not None:
        inner = text[name]
        if not isinstance(inner, Mapping):
            raise SpecError(f"{where}: {name}: expected an object, got {brief(inner)}")
        left_out += [part for part in _other_parts(inner) if part not in left_out]
        text = inner
    whole = kind
    if text is config and whole in wrappers() and "num_hidden_layers" not in config:
        raise SpecError(
            f"{where}: model_type={brief(whole)} needs {TEXT_PARTS[0]}, which is missing; expected an object with its keys"
        )
    if text is not config:
        # Keys about ends stand in either part; the inner one counts.
        outer = {
            key: config[key]
            for key in ("tie_word_embeddings", "draft_vocab_size", "target_hidden_size")
            if config.get(key) is not None
        }
        tied = text.get("tie_word_embeddings")
        if tied is not None and outer.get("tie_word_embeddings", tied) != tied:
            notes.append(
                f"tie_word_embeddings is {str(tied).lower()} in the text part, and otherwise outside; taken from the text part"
            )
        text = {**outer, **text}
        inner_kind = text.get("model_type")
        if inner_kind is not None and (not isinstance(inner_kind, str) or not inner_kind):
            raise SpecError(
                f"{where}: text part: model_type={brief(inner_kind)}: expected text, such as llama"
            )
        kind = inner_kind or kind
    kind = wrappers().get(kind, kind)
    if (whole in wrappers() or (text is not config and nested is None)) and not left_out:
        left_out.append(
            "audio" if any(word in whole for word in ("audio", "speech", "voxtral", "ultravox")) else "vision"
        )
    if left_out:
        parts = " and ".join(left_out)
        notes.append(
            f"only the text part ({kind}) is counted: the {parts} part and its projector are left out"
        )
    return text, kind


def _other_parts(config: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(OTHER_PARTS[key] for key in OTHER_PARTS if config.get(key)))


def _architecture(config: Mapping[str, Any], where: str) -> str:
    listed = config.get("architectures")
    if listed is None or listed == []:
        return ""
    if not isinstance(listed, list) or not all(isinstance(each, str) and each for each in listed):
        raise SpecError(f"{where}: architectures={brief(listed)}: expected a list of names of classes")
    if len(listed) > 1:
        raise SpecError(f"{where}: architectures={brief(listed)}: expected one class")
    return str(listed[0])


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _check_architecture(architecture: str, kind: str, family: Family, where: str) -> None:
    """Refuse a class whose name begins with another family whose layers differ."""
    if not architecture:
        return
    stem = architecture
    for end in (*HEADED, *LABELLED, "Model"):
        stem = stem.removesuffix(end)
    named = next((name for name in family_names() if _plain(name) == _plain(stem)), None)
    if named is None or named in wrappers():
        return
    other = find_family(named)
    shape = (family.mixer, family.feed)
    if other is not None and (other.mixer, other.feed) != shape and other.name != family.name:
        raise SpecError(
            f"{where}: architectures says {architecture}, model_type says {kind}: their layers differ; expected one family"
        )


def _draft(architecture: str, text: Mapping[str, Any], notes: list[str], where: str) -> str:
    """Say which draft head a configuration is. A vocabulary of its own makes one, whatever its class is called."""
    plain = architecture.lower()
    if "eagle3" in plain or ("draft_vocab_size" in text and not any(word in plain for word in DRAFTS)):
        if "eagle3" not in plain:
            notes.append(
                "draft_vocab_size makes it an EAGLE-3 draft head, although architectures does not say so"
            )
        notes.append(
            "an EAGLE-3 draft head: q, k and v take two hidden states, fc takes three; it stays dense"
        )
        return "eagle3"
    if "eagle" in plain:
        notes.append(
            "an EAGLE draft head: fc takes two hidden states; embedding and head are those of its model; it stays dense"
        )
        return "eagle"
    found = next((word for word in DRAFTS if word in plain), None)
    if found is not None:
        raise SpecError(
            f"{where}: architectures says {architecture}: a draft head of this kind is not modelled; "
            "expected a whole model, or an EAGLE or EAGLE-3 head"
        )
    return ""


def _end(
    architecture: str, family: Family, config: Mapping[str, Any], text: Mapping[str, Any], where: str
) -> tuple[End, int]:
    """Say what the model ends in: the output head, a head over labels, or nothing."""
    if architecture.endswith(LABELLED):
        if architecture.endswith("ForQuestionAnswering"):
            return "labels", 2
        # A reward is one number if the file counts no labels.
        single = architecture.endswith("RewardModel") and not architecture.endswith("ProcessRewardModel")
        said = config if "id2label" in config or "num_labels" in config else text
        return "labels", _labels(said, where, default=1 if single else 2)
    plain = architecture.lower()
    if not architecture or architecture.endswith(HEADED) or architecture in family.headed or "eagle" in plain:
        return "lm_head", 0
    if architecture.endswith(("ForMaskedLM", "DoubleHeadsModel")):
        raise SpecError(
            f"{where}: architectures says {architecture}: expected a causal model with one output head"
        )
    if architecture.endswith(("Model", "EmbeddingModel", "ForTextEncoding", "Encoder")):
        return "none", 0
    if "For" in architecture and not architecture.endswith("ForCausalLM"):
        raise SpecError(
            f"{where}: architectures says {architecture}: its head is not known; expected ...ForCausalLM, "
            "...ForSequenceClassification, ...ForTokenClassification, ...RewardModel or ...Model"
        )
    return "lm_head", 0


def _labels(config: Mapping[str, Any], where: str, *, default: int) -> int:
    named, stated = config.get("id2label"), config.get("num_labels")
    if named is not None and not isinstance(named, Mapping):
        raise SpecError(f"{where}: id2label: expected an object, got {brief(named)}")
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int) or stated < 1):
        raise SpecError(f"{where}: num_labels={brief(stated)}: expected a whole number from 1")
    if named and stated and len(named) != stated:
        raise SpecError(
            f"{where}: num_labels={stated}, but id2label has {len(named)}: expected equal numbers"
        )
    return len(named) if named else stated or default
