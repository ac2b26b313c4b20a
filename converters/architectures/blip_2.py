"""BLIP-2 (`Blip2ForConditionalGeneration`) and InstructBLIP: EVA's ViT, a Q-Former, Flan-T5 or, InstructBLIP only, Vicuna.

Source: Li et al. 2023 (arXiv 2301.12597); names and shapes from `transformers`' modeling_blip_2.py and
modeling_instructblip.py. llama.cpp has no graph for the tower: it becomes one for ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.architectures import Plan, Rule, biased, idefics3, t5
from converters.architectures.qwen2_vl import MEAN, STD
from converters.architectures.text import args_of, is_tied, llama_plan_parts, text_metadata, text_rules
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError

# What its authors ask in (Li et al. 2023, appendix B; Dai et al. 2023, appendix C), as a chat template: the picture goes before
# all text, the beginning of it included
TEMPLATE = (
    "{%- for message in messages %}{%- for part in message['content'] %}{%- if part['type'] == 'image' %}<image>{%- else %}"
    "{START}Question: {{ part['text'] }} Short answer:{%- endif %}{%- endfor %}{%- endfor %}{END}"
)


@dataclass(frozen=True)
class VisionArgs(idefics3.VisionArgs):
    """With the defaults of `transformers`' Blip2VisionConfig."""

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    patch_size: int = 14
    hidden_act: str = "gelu"


@dataclass(frozen=True)
class QFormerArgs:
    """With the defaults of `transformers`' Blip2QFormerConfig."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2


def plan(config: dict[str, Any], preprocessor: dict[str, Any], *, reads: bool = False) -> Plan:
    """config.json and preprocessor_config.json -> what goes where. reads: the Q-Former reads the question."""
    vision: VisionArgs = args_of(VisionArgs, _plain(config.get("vision_config")))
    qformer: QFormerArgs = args_of(QFormerArgs, _plain(config.get("qformer_config")))
    queries = int(config.get("num_query_tokens", 32))
    supported = {
        f"activation {vision.hidden_act} of the vision tower": vision.hidden_act == "gelu",
        f"activation {qformer.hidden_act} of the Q-Former": qformer.hidden_act == "gelu",
        f"{vision.image_size} px with patches of {vision.patch_size}": vision.image_size % vision.patch_size == 0,
    }
    for what, fine in supported.items():
        if not fine:
            raise EdgeVqaError(f"{what} is not supported", "use an original checkpoint")
    lm, lm_metadata, vocabulary, optional, template = _text(config)
    width = lm["token_embd.weight"].shape[1]
    side = vision.image_size
    return Plan(
        lm=lm,
        vision=_vision_rules(vision) | _qformer_rules(qformer, vision.hidden_size, queries, width, reads),
        lm_metadata=lm_metadata,
        vision_metadata={
            "clip.projector_type": "qformer",
            "clip.use_gelu": True,
            "clip.vision.image_size": side,
            "clip.vision.patch_size": vision.patch_size,
            "clip.vision.embedding_length": vision.hidden_size,
            "clip.vision.block_count": vision.num_hidden_layers,
            "clip.vision.attention.head_count": vision.num_attention_heads,
            "clip.vision.attention.layer_norm_epsilon": float(vision.layer_norm_eps),
            "clip.vision.projection_dim": width,
            "clip.vision.image_mean": [float(v) for v in preprocessor.get("image_mean", MEAN)],
            "clip.vision.image_std": [float(v) for v in preprocessor.get("image_std", STD)],
            "clip.qformer.block_count": qformer.num_hidden_layers,
            "clip.qformer.context_length": qformer.max_position_embeddings,
            "clip.qformer.attention.head_count": qformer.num_attention_heads,
            "clip.qformer.attention.layer_norm_epsilon": float(qformer.layer_norm_eps),
        },
        vocabulary=vocabulary,
        preprocessing=Preprocessing(side, side, queries, "bicubic", "square"),
        optional=optional,
        unused=r"qformer\.embeddings\.position_ids|language_model\.(en|de)coder\.embed_tokens\.weight"
        + ("" if reads else r"|qformer\.embeddings\..*|qformer\.encoder\.layer\.\d+\.(intermediate|output)\..*"),
        chat_template=template,
        reads_question=reads,
    )


def _plain(config: Any) -> dict[str, Any]:
    """What has one value: sizes may come as pairs of equal ones."""
    given: dict[str, Any] = config if isinstance(config, dict) else {}
    pairs = {key: value for key, value in given.items() if isinstance(value, list) and value and value == value[:1] * 2}
    return given | {key: value[0] for key, value in pairs.items()}


def _text(config: dict[str, Any]) -> tuple[dict[str, Rule], dict[str, Any], int, frozenset[str], str]:
    """Rules and metadata of the LM, rows of its embedding, what may be missing, and how a question is put to it."""
    raw = dict(config.get("text_config") or {})
    kind = raw.get("model_type", "opt")
    if kind == "t5":
        made = t5.args(raw)
        template = TEMPLATE.replace("{START}", "").replace("{END}", "</s>")
        tied = frozenset({"language_model.lm_head.weight"})
        return t5.rules(made, "language_model"), t5.metadata(made), made.vocab_size, tied, template
    if kind == "llama":
        args, raw, _ = llama_plan_parts(config)
        template = TEMPLATE.replace("{START}", "{{ bos_token }}").replace("{END}", "")
        lm = text_rules(args, "language_model.model", "language_model.lm_head.weight")
        tied = frozenset({"language_model.lm_head.weight"} if is_tied(config, raw) else ())
        return lm, text_metadata(args), args.vocab_size, tied, template
    if kind == "opt":
        raise EdgeVqaError(
            "llama.cpp has no graph for OPT (learned positions, ReLU)", "use a checkpoint with Flan-T5 or Vicuna"
        )
    raise EdgeVqaError(f"a text model of type {kind!r} is not supported", "use a checkpoint with Flan-T5 or Vicuna")


def _vision_rules(args: VisionArgs) -> dict[str, Rule]:
    hidden, tower = args.hidden_size, "vision_model"
    patches = (args.image_size // args.patch_size) ** 2
    rules = {
        "v.class_embd": Rule(f"{tower}.embeddings.class_embedding", (1, 1, hidden)),
        "v.position_embd.weight": Rule(f"{tower}.embeddings.position_embedding", (1, patches + 1, hidden)),
        **biased("v.patch_embd", f"{tower}.embeddings.patch_embedding", hidden, 3, args.patch_size, args.patch_size),
        **biased("v.post_ln", f"{tower}.post_layernorm", hidden),
    }
    for i in range(args.num_hidden_layers):
        layer, block = f"{tower}.encoder.layers.{i}", f"v.blk.{i}"
        for number, short in enumerate("qkv"):
            rows = slice(number * hidden, (number + 1) * hidden)
            source = f"{layer}.self_attn.qkv"

            def cut(values: Any, rows: slice = rows) -> Any:
                return np.ascontiguousarray(values[rows])

            rules[f"{block}.attn_{short}.weight"] = Rule(f"{source}.weight", (3 * hidden, hidden), cut, (hidden, hidden))
            rules[f"{block}.attn_{short}.bias"] = Rule(f"{source}.bias", (3 * hidden,), cut, (hidden,))
        rules |= biased(f"{block}.attn_out", f"{layer}.self_attn.projection", hidden, hidden)
        rules |= biased(f"{block}.ln1", f"{layer}.layer_norm1", hidden) | biased(f"{block}.ln2", f"{layer}.layer_norm2", hidden)
        rules |= biased(f"{block}.ffn_up", f"{layer}.mlp.fc1", args.intermediate_size, hidden)
        rules |= biased(f"{block}.ffn_down", f"{layer}.mlp.fc2", hidden, args.intermediate_size)
    return rules


def _qformer_rules(args: QFormerArgs, seen: int, queries: int, width: int, reads: bool) -> dict[str, Rule]:
    hidden, inner = args.hidden_size, args.intermediate_size
    rules = {
        "mm.query": Rule("query_tokens", (1, queries, hidden), lambda values: values[0], (queries, hidden)),
        **biased("mm.fc", "language_projection", width, hidden),
        **biased("mm.norm", "qformer.embeddings.layernorm" if reads else "qformer.layernorm", hidden),
    }
    if reads:
        rules |= {
            "mm.token_embd.weight": Rule("qformer.embeddings.word_embeddings.weight", (args.vocab_size, hidden)),
            "mm.position_embd.weight": Rule(
                "qformer.embeddings.position_embeddings.weight", (args.max_position_embeddings, hidden)
            ),
        }

    def attention(target: str, source: str, columns: int) -> None:
        for short, theirs, n in (("q", "query", hidden), ("k", "key", columns), ("v", "value", columns)):
            rules.update(biased(f"{target}_{short}", f"{source}.attention.{theirs}", hidden, n))
        rules.update(biased(f"{target}_out", f"{source}.output.dense", hidden, hidden))
        rules.update(biased(f"{target}_norm", f"{source}.output.LayerNorm", hidden))

    def feed(target: str, up: str, down: str) -> None:
        rules.update(biased(f"{target}_up", f"{up}.dense", inner, hidden))
        rules.update(biased(f"{target}_down", f"{down}.dense", hidden, inner))
        rules.update(biased(f"{target}_norm", f"{down}.LayerNorm", hidden))

    for i in range(args.num_hidden_layers):
        layer, block = f"qformer.encoder.layer.{i}", f"mm.blk.{i}"
        attention(f"{block}.attn", f"{layer}.attention", hidden)
        if i % args.cross_attention_frequency == 0:
            attention(f"{block}.cross", f"{layer}.crossattention", seen)
        feed(f"{block}.ffn", f"{layer}.intermediate_query", f"{layer}.output_query")
        if reads:
            feed(f"{block}.text", f"{layer}.intermediate", f"{layer}.output")
    return rules
