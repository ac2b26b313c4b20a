"""What a gguf says of itself, held against what it holds, before llama.cpp believes it: ranges, and relations between values
and tensor shapes. Of what this leaves, a trial in a child process finds out (`admission.py`).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from edge_vqa.bundles import charsmap
from edge_vqa.bundles.gguf_file import Header, read
from edge_vqa.errors import EdgeVqaError

# whole numbers: end of the key -> least and most. Wider than any model that runs on a small device.
RANGES = {
    "block_count": (1, 1024),
    "decoder_block_count": (1, 1024),
    "attention.relative_buckets_count": (2, 1024),
    "context_length": (1, 1 << 24),
    "embedding_length": (1, 1 << 16),
    "feed_forward_length": (1, 1 << 20),
    "attention.head_count": (1, 1024),
    "attention.head_count_kv": (0, 1024),
    "attention.key_length": (1, 4096),
    "attention.value_length": (1, 4096),
    "attention.key_length_swa": (1, 4096),
    "attention.value_length_swa": (1, 4096),
    "rope.dimension_count": (0, 4096),
    "vocab_size": (1, 1 << 22),
    "n_deepstack_layers": (0, 64),
    "expert_count": (0, 1024),
    "expert_used_count": (0, 1024),
    "image_size": (1, 1 << 14),
    "patch_size": (1, 1024),
    "projection_dim": (0, 1 << 16),
    "projector.scale_factor": (1, 64),
    "spatial_merge_size": (1, 64),
    "preproc_image_size": (1, 1 << 16),
}
LISTED = ("feed_forward_length", "attention.head_count", "attention.head_count_kv", "expert_used_count")  # or one a layer
FRACTIONS = ("epsilon", "layer_norm_rms_epsilon")  # end of a key: between 0 and 1
FLOATS = (0, 1, 30)  # ggml types f32, f16, bf16
INTEGERS = (24, 25, 26, 27, 28)  # ggml types that no weight has
TRANSPOSED = "mm.input_projection.weight"  # by llama.cpp's graph of Gemma 3's tower, which it can do to floats only
LEAST_TOKENS = 4


def check(lm: Path, vision: Path | None) -> None:
    """Raises EdgeVqaError naming a file and its first claim that is not so."""
    for path, rules in ((lm, _lm), (vision, _tower)):
        if path is None:
            continue
        try:
            header = read(path)
            _common(header)
            rules(header)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            said = str(error) or type(error).__name__
            raise EdgeVqaError(f"{path.name} says of itself what is not so ({said})", "download or convert it again") from None


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _common(header: Header) -> None:
    kind = header.metadata.get("general.architecture")
    _require(isinstance(kind, str) and re.fullmatch(r"[a-z0-9_.-]{1,64}", kind) is not None, "general.architecture")
    for key, value in header.metadata.items():
        ending = next((end for end in RANGES if key.endswith(f".{end}")), None)
        if ending and not key.startswith(("tokenizer.", "general.")):
            least, most = RANGES[ending]
            values = value if isinstance(value, list) and ending in LISTED else [value]
            _require(all(type(v) is int and least <= v <= most for v in values), f"{key} is {str(value)[:40]}")
        elif key.endswith(FRACTIONS):
            _require(isinstance(value, float) and 0 < value < 1, f"{key} is {str(value)[:40]}")
        elif isinstance(value, float):
            _require(math.isfinite(value), f"{key} is {value}")
    for name, (shape, kind_, _) in header.tensors.items():
        flat = len(shape) == 1 or name.endswith((".bias", "norm.weight"))
        _require(kind_ not in INTEGERS and not (flat and kind_ != 0), f"{name} has ggml type {kind_}")


def _numbers(header: Header, prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}


def _layers(header: Header, prefix: str) -> set[int]:
    pattern = re.compile(re.escape(prefix) + r"(\d{1,6})\.")
    return {int(found[1]) for name in header.tensors if (found := pattern.match(name))}


def _shape(header: Header, name: str, *wanted: int | None) -> None:
    """A tensor, if it is there, has this shape, slowest dimension first; None: any."""
    if name in header.tensors:
        shape = header.tensors[name][0]
        fits = len(shape) == len(wanted) and all(w is None or w == s for w, s in zip(wanted, shape, strict=True))
        _require(fits, f"{name} has the shape {list(shape)}")


def _lm(header: Header) -> None:
    values = _numbers(header, f"{header.metadata['general.architecture']}.")
    width, blocks = values["embedding_length"], values["block_count"]
    if header.metadata["general.architecture"] == "t5":
        last = {"dec.output_norm.weight"}
        _encoder_decoder(header, values)
    else:
        last = {"output_norm.weight", "token_embd_norm.weight"}  # the second is LFM2's
        _require(_layers(header, "blk.") == set(range(blocks)), f"block_count is {blocks}")
    _require(values.get("n_deepstack_layers", 0) < blocks, "n_deepstack_layers")  # llama.cpp adds none behind the last layer
    words: Any = header.metadata.get("tokenizer.ggml.tokens")
    _require(isinstance(words, list) and len(words) >= LEAST_TOKENS, "tokenizer.ggml.tokens")
    n = len(words)
    _require(len(set(words)) > n // 2, "most tokens are alike")
    for key in ("token_type", "scores"):
        listed = header.metadata.get(f"tokenizer.ggml.{key}")
        _require(listed is None or (isinstance(listed, list) and len(listed) == n), f"tokenizer.ggml.{key}")
    listed = header.metadata.get("tokenizer.ggml.scores") or []
    _require(all(isinstance(score, float) and math.isfinite(score) for score in listed), "tokenizer.ggml.scores")
    found = header.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if found is not None:
        charsmap.check(bytes(value & 0xFF for value in found))  # signed or not
    for key, value in header.metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            _require(type(value) is int and (0 <= value < n or value == 0xFFFFFFFF), f"{key} is {value}")
    if "vocab_size" in values:
        _require(values["vocab_size"] == n, f"vocab_size is {values['vocab_size']}")
    _require("token_embd.weight" in header.tensors and bool(last & set(header.tensors)), "it has no embeddings")
    _shape(header, "token_embd.weight", n, width)
    _shape(header, "output.weight", n, width)
    _shape(header, "output_norm.weight", width)
    if values.get("expert_count", 0):
        _require(any("_exps" in name for name in header.tensors), "expert_count without experts")
        used = values.get("expert_used_count", 0)
        _require(isinstance(used, list) or 0 < used <= values["expert_count"], f"expert_used_count is {used}")
    else:
        _require(not values.get("expert_used_count", 0), "expert_used_count without experts")
    _decoder(header, values)


def _decoder(header: Header, values: dict[str, Any]) -> None:
    """Layers of attention and MLP, where all have as many heads."""
    width, blocks = values["embedding_length"], values["block_count"]
    heads, inner = values.get("attention.head_count"), values.get("feed_forward_length")
    if type(heads) is not int:
        return
    shared = values.get("attention.head_count_kv", heads)
    whole = [values.get(f"attention.{name}_length", width // heads) for name in ("key", "value")]
    near = [values.get(f"attention.{name}_length_swa", length) for name, length in zip(("key", "value"), whole, strict=True)]
    sliding = header.metadata.get(f"{header.metadata['general.architecture']}.attention.sliding_window_pattern")
    key, value = whole
    _require(key % 2 == 0 and values.get("rope.dimension_count", 0) <= key, f"attention.key_length is {key}")
    _require(type(shared) is not int or (0 < shared <= heads and heads % shared == 0), f"attention.head_count_kv is {shared}")
    for block in range(blocks):
        begin = f"blk.{block}."
        key, value = near if isinstance(sliding, list) and sliding[block : block + 1] == [True] else whole
        for name in ("attn_norm", "ffn_norm", "attn_post_norm", "ffn_post_norm"):
            _shape(header, f"{begin}{name}.weight", width)
        _shape(header, f"{begin}attn_output.weight", width, heads * value)
        if f"{begin}attn_q.weight" in header.tensors and f"{begin}attn_q_a.weight" not in header.tensors:
            _require(header.tensors[f"{begin}attn_q.weight"][0][0] in (heads * key, 2 * heads * key), f"head_count is {heads}")
        if type(shared) is int:
            _shape(header, f"{begin}attn_k.weight", shared * key, width)
            _shape(header, f"{begin}attn_v.weight", shared * value, width)
        if type(inner) is int and "expert_count" not in values:
            _shape(header, f"{begin}ffn_gate.weight", inner, width)
            _shape(header, f"{begin}ffn_down.weight", width, inner)


def _encoder_decoder(header: Header, values: dict[str, Any]) -> None:
    """T5: layers of two kinds, each with all its matrices; relative positions in a table of each half's first layer."""
    width, inner, heads = values["embedding_length"], values["feed_forward_length"], values["attention.head_count"]
    blocks, buckets = values["block_count"], values["attention.relative_buckets_count"]
    later = values.get("decoder_block_count", blocks)
    _require(later <= blocks, f"decoder_block_count is {later}")  # llama.cpp does not load more
    start = values.get("decoder_start_token_id", 0)
    _require(
        type(start) is int and 0 <= start < header.tensors["token_embd.weight"][0][0], f"decoder_start_token_id is {start}"
    )
    _require(type(heads) is int and type(inner) is int, "layers that differ")
    _require(values.get("attention.head_count_kv", heads) == heads, "attention.head_count_kv")
    size = values.get("attention.key_length", width // heads)
    _require(values.get("attention.value_length", size) == size, "attention.value_length")
    for half, count, kinds in (("enc", blocks, ("attn",)), ("dec", later, ("attn", "cross_attn"))):
        _require(_layers(header, f"{half}.blk.") == set(range(count)), f"layers of {half}")
        _require(f"{half}.blk.0.attn_rel_b.weight" in header.tensors, f"{half}.blk.0.attn_rel_b.weight is missing")
        for block in range(count):
            begin = f"{half}.blk.{block}."
            _shape(header, f"{begin}attn_rel_b.weight", buckets, heads)
            for kind in kinds:
                for short in "qkv":
                    _shape(header, f"{begin}{kind}_{short}.weight", heads * size, width)
                _shape(header, f"{begin}{kind}_o.weight", width, heads * size)
            for name in ("ffn_gate", "ffn_up"):
                _shape(header, f"{begin}{name}.weight", inner, width)
            _shape(header, f"{begin}ffn_down.weight", width, inner)


def _tower(header: Header) -> None:
    _require(header.metadata["general.architecture"] == "clip", "it is no vision tower")
    _require(header.metadata.get("clip.has_vision_encoder") is True, "clip.has_vision_encoder")
    values = _numbers(header, "clip.vision.")
    projector = header.metadata.get("clip.projector_type", values.get("projector_type", "mlp"))
    _require(isinstance(projector, str), "clip.projector_type")
    width, side, patch = values["embedding_length"], values["image_size"], values["patch_size"]
    heads = values["attention.head_count"]
    _require(width % heads == 0 or "attention.head_dim" in values, f"attention.head_count is {heads}")
    _require(patch <= side, f"patch_size is {patch}")
    layers = _layers(header, "v.blk.")
    # LLaVA leaves out the last layer, and says how many remain
    _require(layers == set(range(values["block_count"])) or not layers, f"block_count is {values['block_count']}")
    for key in ("image_mean", "image_std"):
        _require(len(values[key]) == 3 and all(type(v) is float and abs(v) < 256 for v in values[key]), f"clip.vision.{key}")
    _require(min(values["image_std"]) > 0, "clip.vision.image_std")
    grid = side // patch
    if projector == "idefics3":
        factor = values["projector.scale_factor"]
        _require(grid % factor == 0, f"projector.scale_factor is {factor}")
        _shape(header, "mm.model.fc.weight", values["projection_dim"], width * factor**2)
        _shape(header, "v.position_embd.weight", grid**2, width)
        _shape(header, "v.patch_embd.weight", width, 3, patch, patch)
        _shape(header, "v.patch_embd.bias", width)
    _, kind, _ = header.tensors.get(TRANSPOSED, ((), FLOATS[0], 0))
    _require(projector != "gemma3" or kind in FLOATS, f"{TRANSPOSED} is quantised")
    inner = values.get("feed_forward_length")
    for block in layers:
        begin = f"v.blk.{block}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            _shape(header, f"{begin}{name}.bias", width)
        for name in ("ln1", "ln2"):
            _shape(header, f"{begin}{name}.weight", width)
            _shape(header, f"{begin}{name}.bias", width)
        if projector == "idefics3":
            for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
                _shape(header, f"{begin}{name}.weight", width, width)
            _shape(header, f"{begin}ffn_up.weight", inner, width)
            _shape(header, f"{begin}ffn_up.bias", inner)
            _shape(header, f"{begin}ffn_down.weight", width, inner)
            _shape(header, f"{begin}ffn_down.bias", width)
