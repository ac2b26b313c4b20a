"""Writes what was learned as a bundle: the LM with its adapters merged, and one ONNX graph from pixels to image tokens.

python -m recipes.base.bundle --type iq4_nl -o build/base/bundle
"""

from __future__ import annotations

import argparse
import io
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from converters.architectures.text import TextArgs, text_metadata, text_rules
from converters.files import writer
from converters.files.parts import Half, Kept, Part
from converters.method import lm_entries, parse_quant
from edge_vqa.bundles import gguf_file, ready, store
from edge_vqa.bundles.manifest import Preprocessing, Quantisation, Source
from edge_vqa.bundles.template import CONTROL, Vocabulary, render
from recipes.base import eyes, kept, language, lora
from recipes.base.connector import TOKENS
from recipes.base.train import TYPE, Learner

# one turn, without the system's: what the LM was taught with
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LONGEST = 16  # tokens of an answer
SMALL = 2048  # weights of a tensor; below, it stays float32


class Tower(nn.Module):
    """Pixels uint8 [1, SIDE, SIDE, 3] -> image tokens [TOKENS, n_embd], and what they were told from, by which familiarity is
    judged [1, WIDTH + 2 x STATE]: tokens are words, and any picture makes them."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.eyes, self.fc, self.connector = eyes.Eyes(), learner.fc, learner.connector
        self.own, self.colours, self.finder = learner.own, learner.colours, learner.finder

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mean, states = self.eyes(pixels)
        told = self.connector(self.fc(mean).softmax(-1), self.own(mean), self.colours(states), self.finder.find(states))[0]
        middle = states.mean(1)
        away = states - middle[:, None]
        spread = (away * away).mean(1).sqrt()
        return told, torch.cat([mean.clamp(min=0).sqrt(), middle, spread], 1)


def write_tower(tower: Tower, path: Path, *, eight: bool = True) -> None:
    """The graph with everything folded that can be: no node is left that only works out a shape."""
    stream = io.BytesIO()
    pixels = torch.zeros(1, eyes.SIDE, eyes.SIDE, 3, dtype=torch.uint8)
    names = {"input_names": ["pixels"], "output_names": ["embeddings", "summary"]}
    torch.onnx.export(tower, (pixels,), stream, dynamo=False, opset_version=17, **names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(stream.getvalue(), options)
    if eight:
        onnx.save(eight_bits(onnx.load(path)), path)


def eight_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every large weight as int8 with a scale for each output channel, in place. Multiplied out anew for each
    picture: that costs some milliseconds and saves a copy in single precision."""
    graph, before = model.graph, []
    for stored in list(graph.initializer):
        values = numpy_helper.to_array(stored)
        if values.dtype != np.float32 or values.size < SMALL or values.ndim < 2:
            continue
        channels = {4: (0,), 3: (0, 1), 2: (0, 1)}[values.ndim]
        axes = [tuple(axis for axis in range(values.ndim) if axis != channel) for channel in channels]
        _, codes, scale, axis = min(
            ((*coded(values, own), channel) for own, channel in zip(axes, channels, strict=True)), key=lambda one: one[0]
        )
        name = stored.name
        graph.initializer.remove(stored)
        made = {f"{name}_codes": codes, f"{name}_scale": scale.reshape(-1)}
        graph.initializer.extend(numpy_helper.from_array(array, own) for own, array in made.items())
        before.append(helper.make_node("DequantizeLinear", list(made), [name], axis=axis))
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def coded(values: np.ndarray, axes: tuple[int, ...]) -> tuple[float, np.ndarray, np.ndarray]:
    """(squared error, codes, scale) of symmetric 8 bits, one scale for all values along `axes`."""
    scale = np.maximum(np.abs(values).max(axes, keepdims=True), 1e-12) / 127
    codes = np.rint(values / scale).astype(np.int8)
    return float(np.square(codes * scale - values).sum()), codes, scale.astype(np.float32)


def tokenizer_metadata() -> dict[str, Any]:
    """What the published gguf says of its tokenizer, with a template of our own."""
    found: dict[str, Any] = {}
    for key, entry in gguf.GGUFReader(language.file()).fields.items():
        if key.startswith("tokenizer."):
            found[key] = Kept(entry.contents(), entry.types[0], entry.types[1] if len(entry.types) > 1 else None)
    return found | {"tokenizer.chat_template": TEMPLATE}


def half(lm: LlamaForCausalLM) -> Half:
    """The LM as a converter takes it."""
    config = lm.config
    args = TextArgs(
        **{name: getattr(config, name) for name in TextArgs.__dataclass_fields__ if name not in ("rope_theta", "head_dim")},
        rope_theta=float(config.rope_parameters["rope_theta"]),
    )
    weights = {name: parameter.detach().numpy() for name, parameter in lm.named_parameters()}

    def read(rule: Any) -> np.ndarray:
        values = weights[rule.source]
        return rule.change(values) if rule.change else values

    rules = text_rules(args, "model", "lm_head.weight")
    tensors = {
        name: Part(rule.stored, "f32", partial(read, rule), rule.source)
        for name, rule in rules.items()
        if rule.source in weights
    }
    return Half(text_metadata(args) | tokenizer_metadata(), tensors)


def write(learner: Learner, output: Path, name: str, type_: str, *, eight: bool = True) -> None:
    """A bundle without a gate. eight: whether the tower's weights are stored in 8 bits."""
    made, method = half(lora.merge(learner.lm)), parse_quant(f"rtn:{type_}")
    with store.new_folder(output, force=True) as work:
        metadata = made.metadata | {"general.name": name, "general.type": "model"}
        writer.write(work / ready.FILES["lm"], metadata, lm_entries(made, method, 2, {}), lambda done: None)
        write_tower(Tower(learner).eval(), work / ready.FILES["vision_onnx"], eight=eight)
        header = gguf_file.read(work / ready.FILES["lm"])
        words = Vocabulary(
            tokens=header.metadata["tokenizer.ggml.tokens"],
            types=header.metadata["tokenizer.ggml.token_type"],
            special={"eos": learner.tokenizer.eos_token_id},
            chat_template=TEMPLATE,
            starts_with_bos=False,
            unicode="",
        )
        assert CONTROL in words.types
        ready.write_manifest(
            work,
            name=name,
            version="3",
            licence="Apache-2.0",
            description="the base model: photographs of things, animals, groceries, clothes; drawings, shapes",
            source=Source("recipes/base"),
            architecture="llama",
            quantisation=Quantisation(
                method.name, method.type, ready.bits_per_weight(header), f"onnx-{'int8' if eight else 'f32'}"
            ),
            prompt=render(words, None, instruction="", max_tokens=LONGEST, detail="low"),
            preprocessing=Preprocessing(eyes.SIDE, eyes.SIDE, TOKENS, "bicubic", "whole"),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", default=TYPE, help="how the LM's matrices are stored")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    write(kept.read()[0], arguments.output, "base", arguments.type)


if __name__ == "__main__":
    main()
