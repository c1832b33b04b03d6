"""Names and shapes of the tensors of published models, small, and what each tensor is: the kind, and the in features' axis.

Names are those that the models' own code in `transformers` 4.57, `timm`, `diffusers` or the authors' repositories write.
Sizes are small, and chosen so that several of them are equal, as they are in small models.
"""

H, F, V, D = 64, 128, 256, 16


def dense(prefix, attention="self_attn", names=("q_proj", "k_proj", "v_proj", "o_proj"), mlp=True):
    """A Llama layer."""
    rows = {names[0]: H, names[1]: D, names[2]: D, names[3]: H}
    out = {f"{prefix}{attention}.{name}.weight": ((n, H), 1) for name, n in rows.items()}
    if mlp:
        out |= gated(f"{prefix}mlp.")
    return out | {f"{prefix}input_layernorm.weight": ((H,), "norm")}


def gated(prefix, gate="gate_proj", up="up_proj", down="down_proj"):
    return {
        f"{prefix}{gate}.weight": ((F, H), 1),
        f"{prefix}{up}.weight": ((F, H), 1),
        f"{prefix}{down}.weight": ((H, F), 1),
    }


EMBED = {"model.embed_tokens.weight": ((V, H), "embedding")}
HEAD = {"lm_head.weight": ((V, H), "head")}
L = "model.layers.0."


def experts(prefix, count=4, **names):
    out = {}
    for number in range(count):
        out |= gated(f"{prefix}{number}.", **names)
    return out


FAMILIES = {
    "llama": EMBED | HEAD | dense(L),
    "llama, tied": EMBED | dense(L),
    "llama of the authors": {
        "tok_embeddings.weight": ((V, H), "embedding"),
        "output.weight": ((V, H), "head"),
        "norm.weight": ((H,), "norm"),
        "layers.0.attention.wq.weight": ((H, H), 1),
        "layers.0.attention.wo.weight": ((H, H), 1),
        "layers.0.feed_forward.w1.weight": ((V, H), 1),
        "layers.0.feed_forward.w2.weight": ((H, V), 1),
        "layers.0.attention_norm.weight": ((H,), "norm"),
    },
    "qwen3": EMBED | HEAD | dense(L) | {L + "self_attn.q_norm.weight": ((D,), "norm")},
    "phi3": EMBED
    | HEAD
    | {
        L + "self_attn.qkv_proj.weight": ((3 * H, H), 1),
        L + "mlp.gate_up_proj.weight": ((V, H), 1),
        L + "mlp.down_proj.weight": ((H, F), 1),
    },
    "falcon": {
        "transformer.word_embeddings.weight": ((V, H), "embedding"),
        "lm_head.weight": ((V, H), "head"),
        "transformer.h.0.self_attention.query_key_value.weight": ((H + 2 * D, H), 1),
        "transformer.h.0.self_attention.dense.weight": ((H, H), 1),
        "transformer.h.0.mlp.dense_h_to_4h.weight": ((4 * H, H), 1),
        "transformer.h.0.mlp.dense_4h_to_h.weight": ((H, 4 * H), 1),
        "transformer.h.0.ln_attn.weight": ((H,), "norm"),
    },
    "bloom": {
        "word_embeddings.weight": ((V, H), "embedding"),
        "word_embeddings_layernorm.weight": ((H,), "norm"),
        "h.0.self_attention.query_key_value.weight": ((3 * H, H), 1),
        "h.0.self_attention.query_key_value.bias": ((3 * H,), "bias"),
        "h.0.mlp.dense_h_to_4h.weight": ((4 * H, H), 1),
        "h.0.mlp.dense_h_to_4h.bias": ((4 * H,), "bias"),
    },
    "gpt_neox": {
        "gpt_neox.embed_in.weight": ((V, H), "embedding"),
        "embed_out.weight": ((V, H), "head"),
        "gpt_neox.layers.0.attention.query_key_value.weight": ((3 * H, H), 1),
        "gpt_neox.layers.0.attention.dense.weight": ((H, H), 1),
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": ((V, H), 1),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": ((8,), "other"),
        "gpt_neox.layers.0.attention.bias": ((1, 1, 32, 32), "bias"),
    },
    "gptj": {
        "transformer.wte.weight": ((V, H), "embedding"),
        "lm_head.weight": ((V, H), "head"),
        "transformer.h.0.attn.q_proj.weight": ((H, H), 1),
        "transformer.h.0.attn.out_proj.weight": ((H, H), 1),
        "transformer.h.0.mlp.fc_in.weight": ((4 * H, H), 1),
        "transformer.h.0.mlp.fc_in.bias": ((4 * H,), "bias"),
        "transformer.h.0.mlp.fc_out.weight": ((H, 4 * H), 1),
    },
    "opt": {
        "model.decoder.embed_tokens.weight": ((V, 32), "embedding"),
        "model.decoder.embed_positions.weight": ((V, H), "position"),
        "model.decoder.project_in.weight": ((H, 32), 1),
        "model.decoder.project_out.weight": ((32, H), 1),
        "lm_head.weight": ((V, 32), "head"),
        "model.decoder.layers.0.self_attn.q_proj.weight": ((H, H), 1),
        "model.decoder.layers.0.self_attn.q_proj.bias": ((H,), "bias"),
        "model.decoder.layers.0.fc1.weight": ((V, H), 1),
        "model.decoder.layers.0.fc1.bias": ((V,), "bias"),
        "model.decoder.layers.0.fc2.weight": ((H, V), 1),
        "model.decoder.layers.0.fc2.bias": ((H,), "bias"),
        "model.decoder.layers.0.final_layer_norm.weight": ((H,), "norm"),
    },
    "mpt": {
        "transformer.wte.weight": ((V, H), "embedding"),
        "transformer.blocks.0.attn.Wqkv.weight": ((3 * H, H), 1),
        "transformer.blocks.0.attn.out_proj.weight": ((H, H), 1),
        "transformer.blocks.0.ffn.up_proj.weight": ((4 * H, H), 1),
        "transformer.blocks.0.ffn.down_proj.weight": ((H, 4 * H), 1),
    },
    "gpt_bigcode": {
        "transformer.wte.weight": ((V, H), "embedding"),
        "transformer.wpe.weight": ((V, H), "position"),
        "lm_head.weight": ((V, H), "head"),
        "transformer.h.0.attn.c_attn.weight": ((H + 2 * D, H), 1),
        "transformer.h.0.attn.c_attn.bias": ((H + 2 * D,), "bias"),
        "transformer.h.0.attn.c_proj.weight": ((H, H), 1),
        "transformer.h.0.attn.c_proj.bias": ((H,), "bias"),
        "transformer.h.0.mlp.c_fc.weight": ((4 * H, H), 1),
        "transformer.h.0.mlp.c_proj.weight": ((H, 4 * H), 1),
    },
    "gpt2 with a prefix": {
        "transformer.wte.weight": ((V, H), "embedding"),
        "transformer.wpe.weight": ((128, H), "position"),
        "transformer.h.0.attn.c_attn.weight": ((H, 3 * H), 0),
        "transformer.h.0.attn.c_proj.weight": ((H, H), 0),
        "transformer.h.0.mlp.c_fc.weight": ((H, 4 * H), 0),
        "transformer.h.0.mlp.c_proj.weight": ((4 * H, H), 0),
        "transformer.h.0.crossattention.q_attn.weight": ((H, H), 0),
        "transformer.h.0.ln_1.weight": ((H,), "norm"),
        "transformer.h.0.attn.bias": ((1, 1, 128, 128), "bias"),
    },
    "qwen 1": {
        "transformer.wte.weight": ((V, H), "embedding"),
        "lm_head.weight": ((V, H), "head"),
        "transformer.h.0.attn.c_attn.weight": ((3 * H, H), 1),
        "transformer.h.0.attn.c_attn.bias": ((3 * H,), "bias"),
        "transformer.h.0.attn.c_proj.weight": ((H, H), 1),
        "transformer.h.0.mlp.w1.weight": ((F, H), 1),
        "transformer.h.0.mlp.c_proj.weight": ((H, F), 1),
    },
    "bert": {
        "bert.embeddings.word_embeddings.weight": ((V, H), "embedding"),
        "bert.embeddings.position_embeddings.weight": ((512, H), "position"),
        "bert.embeddings.token_type_embeddings.weight": ((2, H), "embedding"),
        "bert.embeddings.LayerNorm.weight": ((H,), "norm"),
        "bert.encoder.layer.0.attention.self.query.weight": ((H, H), 1),
        "bert.encoder.layer.0.attention.output.dense.weight": ((H, H), 1),
        "bert.encoder.layer.0.attention.output.LayerNorm.weight": ((H,), "norm"),
        "bert.encoder.layer.0.intermediate.dense.weight": ((V, H), 1),
        "bert.encoder.layer.0.output.dense.weight": ((H, V), 1),
        "bert.pooler.dense.weight": ((H, H), "head"),
        "cls.predictions.transform.dense.weight": ((H, H), "head"),
        "cls.predictions.decoder.weight": ((V, H), "head"),
        "cls.seq_relationship.weight": ((2, H), "head"),
    },
    "t5": {
        "shared.weight": ((V, H), "embedding"),
        "encoder.embed_tokens.weight": ((V, H), "embedding"),
        "encoder.block.0.layer.0.SelfAttention.q.weight": ((H, H), 1),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": ((32, D), "position"),
        "encoder.block.0.layer.0.layer_norm.weight": ((H,), "norm"),
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": ((F, H), 1),
        "encoder.block.0.layer.1.DenseReluDense.wo.weight": ((H, F), 1),
        "decoder.block.0.layer.1.EncDecAttention.k.weight": ((H, H), 1),
        "lm_head.weight": ((V, H), "head"),
    },
    "whisper": {
        "model.encoder.conv1.weight": ((H, 80, 3), "outside"),
        "model.encoder.conv2.weight": ((H, H, 3), "outside"),
        "model.encoder.embed_positions.weight": ((V, H), "position"),
        "model.encoder.layers.0.self_attn.q_proj.weight": ((H, H), 1),
        "model.encoder.layers.0.fc1.weight": ((V, H), 1),
        "model.decoder.embed_tokens.weight": ((V, H), "embedding"),
        "model.decoder.embed_positions.weight": ((128, H), "position"),
        "model.decoder.layers.0.encoder_attn.out_proj.weight": ((H, H), 1),
        "proj_out.weight": ((V, H), "head"),
    },
    "clip": {
        "logit_scale": ((), "other"),
        "text_model.embeddings.token_embedding.weight": ((V, H), "embedding"),
        "text_model.embeddings.position_embedding.weight": ((77, H), "position"),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": ((H, H), 1),
        "text_model.encoder.layers.0.mlp.fc1.weight": ((4 * H, H), 1),
        "vision_model.embeddings.class_embedding": ((F,), "other"),
        "vision_model.embeddings.patch_embedding.weight": ((F, 3, 16, 16), "embedding"),
        "vision_model.embeddings.position_embedding.weight": ((50, F), "position"),
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": ((F, F), 1),
        "text_projection.weight": ((H, H), "head"),
        "visual_projection.weight": ((H, F), "head"),
    },
    "vit of timm": {
        "cls_token": ((1, 1, H), "other"),
        "pos_embed": ((1, 197, H), "position"),
        "patch_embed.proj.weight": ((H, 3, 16, 16), "embedding"),
        "blocks.0.norm1.weight": ((H,), "norm"),
        "blocks.0.attn.qkv.weight": ((3 * H, H), 1),
        "blocks.0.attn.proj.weight": ((H, H), 1),
        "blocks.0.mlp.fc1.weight": ((4 * H, H), 1),
        "head.weight": ((1000, H), "head"),
    },
    "swin": {
        "patch_embed.proj.weight": ((H, 3, 4, 4), "embedding"),
        "layers.0.blocks.0.attn.relative_position_bias_table": ((169, 4), "position"),
        "layers.0.blocks.0.attn.relative_position_index": ((49, 49), "position"),
        "layers.0.blocks.0.attn.qkv.weight": ((3 * H, H), 1),
        "layers.1.downsample.reduction.weight": ((2 * H, 4 * H), 1),
        "head.fc.weight": ((10, H), "head"),
    },
    "convnext": {
        "stem.0.weight": ((H, 3, 4, 4), "embedding"),
        "stages.0.blocks.0.conv_dw.weight": ((H, 1, 7, 7), "depthwise"),
        "stages.0.blocks.0.mlp.fc1.weight": ((4 * H, H), 1),
        "stages.1.downsample.1.weight": ((2 * H, H, 2, 2), 1),
        "head.fc.weight": ((10, 2 * H), "head"),
    },
    "resnet": {
        "conv1.weight": ((64, 3, 7, 7), "outside"),
        "bn1.weight": ((64,), "norm"),
        "layer1.0.conv1.weight": ((64, 64, 3, 3), 1),
        "layer1.0.bn1.weight": ((64,), "norm"),
        "layer1.0.downsample.0.weight": ((256, 64, 1, 1), 1),
        "fc.weight": ((1000, 512), "outside"),
    },
    "mixtral": EMBED
    | HEAD
    | dense(L, mlp=False)
    | {L + "block_sparse_moe.gate.weight": ((4, H), "router")}
    | experts(L + "block_sparse_moe.experts.", gate="w1", up="w3", down="w2"),
    "qwen3_moe": EMBED
    | HEAD
    | {L + "mlp.gate.weight": ((4, H), "router")}
    | experts(L + "mlp.experts.")
    | {
        L + "mlp.shared_expert_gate.weight": ((1, H), "router"),
    }
    | gated(L + "mlp.shared_expert."),
    "deepseek of the authors": {
        "embed.weight": ((V, H), "embedding"),
        "head.weight": ((V, H), "head"),
        "layers.0.ffn.w1.weight": ((F, H), 1),
        "layers.1.ffn.gate.weight": ((4, H), "router"),
        "layers.1.ffn.gate.bias": ((4,), "bias"),
        "layers.1.attn.wq_a.weight": ((32, H), 1),
        "layers.1.attn.kv_norm.weight": ((16,), "norm"),
        "layers.1.ffn.shared_experts.w1.weight": ((F, H), 1),
    }
    | experts("layers.1.ffn.experts.", gate="w1", up="w3", down="w2"),
    "olmoe": EMBED | HEAD | {L + "mlp.gate.weight": ((4, H), "router")} | experts(L + "mlp.experts."),
    "nllb_moe": {
        "shared.weight": ((V, H), "embedding"),
        "encoder.layers.3.ffn.router.classifier.weight": ((4, H), "router"),
        "encoder.layers.3.ffn.experts.expert_0.fc1.weight": ((F, H), 1),
        "encoder.layers.3.ffn.experts.expert_3.fc2.weight": ((H, F), 1),
    },
    "dbrx": {
        "transformer.wte.weight": ((V, H), "embedding"),
        "lm_head.weight": ((V, H), "head"),
        "transformer.blocks.0.ffn.router.layer.weight": ((4, H), "router"),
        "transformer.blocks.0.ffn.experts.mlp.w1": ((4 * F, H), 1),
        "transformer.blocks.0.ffn.experts.mlp.v1": ((4 * F, H), 1),
        "transformer.blocks.0.ffn.experts.mlp.w2": ((4 * F, H), 0),
        "transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight": ((3 * H, H), 1),
        "transformer.blocks.0.norm_attn_norm.attn.out_proj.weight": ((H, H), 1),
        "transformer.blocks.0.norm_attn_norm.norm_1.weight": ((H,), "norm"),
    },
    "granitemoe": EMBED
    | dense(L, mlp=False)
    | {
        L + "block_sparse_moe.router.layer.weight": ((8, H), "router"),
        L + "block_sparse_moe.input_linear.weight": ((8, 2 * F, H), 2),
        L + "block_sparse_moe.output_linear.weight": ((8, H, F), 2),
    },
    "jetmoe": EMBED
    | {
        L + "mlp.router.layer.weight": ((8, H), "router"),
        L + "mlp.input_linear.weight": ((8, 2 * F, H), 2),
        L + "mlp.output_linear.weight": ((8, H, F), 2),
        L + "self_attention.experts.router.layer.weight": ((8, H), "router"),
        L + "self_attention.experts.input_linear.weight": ((8, D, H), 2),
        L + "self_attention.experts.output_linear.weight": ((8, H, D), 2),
        L + "self_attention.kv_proj.weight": ((2 * D, H), 1),
    },
    "gpt_oss, square": EMBED
    | HEAD
    | {
        L + "mlp.router.weight": ((8, H), "router"),
        L + "mlp.router.bias": ((8,), "bias"),
        L + "mlp.experts.gate_up_proj": ((8, H, 2 * H), 1),
        L + "mlp.experts.gate_up_proj_bias": ((8, 2 * H), "bias"),
        L + "mlp.experts.down_proj": ((8, H, H), 1),
        L + "mlp.experts.down_proj_bias": ((8, H), "bias"),
        L + "self_attn.sinks": ((64,), "other"),
    },
    "fused, [experts, out, in]": EMBED
    | {
        L + "mlp.gate.weight": ((8, H), "router"),
        L + "mlp.experts.gate_up_proj": ((8, 2 * F, H), 2),
        L + "mlp.experts.down_proj": ((8, H, F), 2),
    },
    "fused, gate_up is square": EMBED
    | {
        L + "mlp.gate.weight": ((8, H), "router"),
        L + "mlp.experts.gate_up_proj": ((8, H, H), 1),
        L + "mlp.experts.down_proj": ((8, H // 2, H), 1),
    },
    "fused, no embedding": {
        L + "mlp.experts.gate_up_proj": ((8, H, 2 * F), 1),
        L + "mlp.experts.down_proj": ((8, F, H), 1),
    },
    "fused, square in all": {L + "mlp.experts.down_proj": ((8, H, H), "ambiguous")},
    "router by its rows": EMBED
    | {L + "moe.chooser.weight": ((4, H), "router")}
    | experts(L + "moe.experts."),
    "a gate that is none": EMBED | gated(L + "mlp.", gate="gate", up="up", down="down"),
    "mamba": {
        "backbone.embeddings.weight": ((V, H), "embedding"),
        "backbone.layers.0.mixer.A_log": ((2 * H, 16), "state"),
        "backbone.layers.0.mixer.D": ((2 * H,), "state"),
        "backbone.layers.0.mixer.dt_bias": ((8,), "bias"),
        "backbone.layers.0.mixer.conv1d.weight": ((2 * H, 1, 4), "state"),
        "backbone.layers.0.mixer.in_proj.weight": ((4 * H, H), 1),
        "backbone.layers.0.mixer.x_proj.weight": ((36, 2 * H), 1),
        "backbone.layers.0.mixer.out_proj.weight": ((H, 2 * H), 1),
        "backbone.layers.0.norm.weight": ((H,), "norm"),
    },
    "jamba": EMBED
    | HEAD
    | {
        L + "mamba.A_log": ((2 * H, 16), "state"),
        L + "mamba.in_proj.weight": ((4 * H, H), 1),
        "model.layers.1.feed_forward.router.weight": ((4, H), "router"),
    }
    | experts("model.layers.1.feed_forward.experts."),
    "unet": {
        "conv_in.weight": ((H, 4, 3, 3), "outside"),
        "time_embedding.linear_1.weight": ((4 * H, H), "outside"),
        "down_blocks.0.resnets.0.conv1.weight": ((H, H, 3, 3), 1),
        "down_blocks.0.resnets.0.time_emb_proj.weight": ((H, 4 * H), 1),
        "down_blocks.0.attentions.0.proj_in.weight": ((H, H, 1, 1), 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": ((H, H), 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight": ((H, H), 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight": ((8 * H, H), 1),
        "down_blocks.0.attentions.0.proj_out.weight": ((H, H, 1, 1), 1),
        "conv_out.weight": ((4, H, 3, 3), "outside"),
    },
    "gguf": {
        "token_embd.weight": ((V, H), "embedding"),
        "output.weight": ((V, H), "head"),
        "output_norm.weight": ((H,), "norm"),
        "blk.0.attn_q.weight": ((H, H), 1),
        "blk.0.attn_output.weight": ((H, H), 1),
        "blk.0.ffn_gate_inp.weight": ((8, H), "router"),
        "blk.0.ffn_gate_exps.weight": ((8, F, H), 2),
        "blk.0.ffn_down_exps.weight": ((8, H, F), 2),
        "blk.0.ffn_up_shexp.weight": ((F, H), 1),
        "blk.0.attn_norm.weight": ((H,), "norm"),
    },
    "megatron": {
        "embedding.word_embeddings.weight": ((V, H), "embedding"),
        "embedding.position_embeddings.weight": ((128, H), "position"),
        "decoder.layers.0.self_attention.linear_qkv.weight": ((3 * H, H), 1),
        "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight": ((H,), "norm"),
        "decoder.layers.0.mlp.linear_fc1.weight": ((V, H), 1),
        "decoder.layers.0.mlp.router.weight": ((8, H), "router"),
        "output_layer.weight": ((V, H), "head"),
    },
    "llava": {
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": ((F, F), "tower"),
        "multi_modal_projector.linear_1.weight": ((H, F), "tower"),
        "language_model.model.embed_tokens.weight": ((V, H), "embedding"),
        "language_model.lm_head.weight": ((V, H), "head"),
        "language_model.model.layers.0.mlp.up_proj.weight": ((F, H), 1),
    },
    "qwen-vl": {
        "visual.blocks.0.attn.qkv.weight": ((3 * F, F), "tower"),
        "visual.patch_embed.proj.weight": ((F, 3, 2, 14, 14), "embedding"),
        "visual.merger.mlp.0.weight": ((H, H), "tower"),
    }
    | EMBED
    | dense(L),
    "lora": EMBED
    | {
        L + "self_attn.q_proj.base_layer.weight": ((H, H), 1),
        L + "self_attn.q_proj.lora_A.default.weight": ((8, H), "adapter"),
        L + "self_attn.q_proj.lora_B.weight": ((H, 8), "adapter"),
    },
    "multi-token prediction": EMBED
    | HEAD
    | dense(L)
    | {
        "model.layers.61.enorm.weight": ((H,), "norm"),
        "model.layers.61.self_attn.q_proj.weight": ((H, H), "draft"),
        "model.layers.61.embed_tokens.weight": ((V, H), "draft"),
        "mtp.layers.0.self_attn.q_proj.weight": ((H, H), "draft"),
        "model.mtp_layers.0.input_proj.weight": ((H, 2 * H), "draft"),
        "medusa_head.0.0.linear.weight": ((H, H), "draft"),
    }
    | {
        "model.layers.61.eh_proj.weight": ((H, 2 * H), "draft"),
        "model.layers.61.shared_head.head.weight": ((V, H), "draft"),
    },
    "classifiers": EMBED | dense(L) | {"score.weight": ((2, H), "head")},
    "reward": EMBED | dense(L) | {"v_head.summary.weight": ((1, H), "head")},
    "a head by its rows": EMBED | dense(L) | {"to_words.weight": ((V, H), "head")},
    "rwkv": {
        "emb.weight": ((V, H), "embedding"),
        "head.weight": ((V, H), "head"),
        "blocks.0.att.time_decay": ((H,), "state"),
        "blocks.0.att.time_maa_w1": ((H, 160), "state"),
        "blocks.0.att.receptance.weight": ((H, H), 1),
        "blocks.0.ffn.key.weight": ((V, H), 1),
        "blocks.0.ln1.weight": ((H,), "norm"),
    },
    "torch's attention": {
        "layers.0.self_attn.in_proj_weight": ((3 * H, H), 1),
        "layers.0.self_attn.in_proj_bias": ((3 * H,), "bias"),
        "layers.0.self_attn.out_proj.weight": ((H, H), 1),
    },
    "a plain network": {
        "fc1.weight": ((V, H), 1),
        "fc2.weight": ((10, V), 1),
        "weight_hh_l0": ((4 * H, H), 1),
    },
    "a transposed convolution": {
        "up.0.weight": ((H, 32, 4, 4), 0),
        "up.0.bias": ((32,), "bias"),
    },
    "gemma3n": {
        "model.language_model.embed_tokens.weight": ((V, H), "embedding"),
        "model.language_model.embed_tokens_per_layer.weight": ((V, 32), "embedding"),
        "model.language_model.per_layer_model_projection.weight": ((32, H), 1),
        "model.language_model.layers.0.per_layer_input_gate.weight": ((32, H), 1),
        "model.language_model.layers.0.self_attn.q_norm.weight": ((D,), "norm"),
        "model.audio_tower.conformer.0.attention.attn.q_proj.weight": ((F, F), "tower"),
        "model.vision_tower.timm_model.blocks.0.0.conv_exp.weight": ((F, 3, 3, 3), "tower"),
    },
}
