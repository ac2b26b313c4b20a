"""What a bundle takes in memory, part by part, estimated before anything native is loaded."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from edge_vqa.bundles import gguf_file
from edge_vqa.bundles.manifest import BACKENDS
from edge_vqa.bundles.store import Bundle
from edge_vqa.device.profile import memory_bytes
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.llama import KV_TYPES, N_BATCH, READ_BYTES

BASE = 90 * 10**6  # Python, NumPy, Pillow, both run-times, the Selector
# ggml types that llama.cpp (ggml-cpu/repack.cpp) lays out anew: q4_0, q2_k, q4_k, iq4_nl, mxfp4; on ARM q8_0, q5_k, q6_k too
LAID_OUT = frozenset({2, 10, 12, 20, 39})
LAID_OUT_ON_ARM = LAID_OUT | {8, 13, 14}
# architectures for whose graphs llama.cpp's scheduler asks for 40 nodes a token of a batch, most of which it never touches
MANY_NODES = ("qwen35", "qwen35moe", "qwen3next", "kimi-linear", "minimax-01", "minimax-m3")
NODE_BYTES = 60 * 368  # 30 inputs of a split, twice, each a tensor's head


@dataclass(frozen=True)
class Plan:
    """Bytes by part."""

    base: int
    lm: int
    tower: int
    kv: int
    compute: int
    context: int  # tokens
    untouched: int = 0  # asked for and left alone: no part of the total

    @property
    def total(self) -> int:
        return self.base + self.lm + self.tower + self.kv + self.compute


@dataclass(frozen=True)
class Need:
    """What a bundle is loaded for: vision backend, tokens and type of the KV cache, questions answered together."""

    backend: str
    context: int
    kv_type: str = "f16"
    sequences: int = 1


def plan(bundle: Bundle, need: Need) -> Plan:
    """An estimate of the peak. Raises EdgeVqaError for files that are no sound gguf."""
    manifest = bundle.manifest
    header = gguf_file.read(bundle.files["lm"])
    kind = header.metadata.get("general.architecture")

    def number(key: str, default: int = 0) -> int:
        found = header.metadata.get(f"{kind}.{key}", default)
        listed = found if isinstance(found, list) else [found]
        if not listed or not all(type(value) is int and 0 <= value < 1 << 32 for value in listed):
            raise EdgeVqaError(f"{bundle.name} says of itself what is not so ({kind}.{key})", "download or convert it again")
        return int(max(listed))

    if need.kv_type not in KV_TYPES:
        raise EdgeVqaError(f"a KV cache of type {need.kv_type!r} is unknown", f"use one of {', '.join(KV_TYPES)}")
    context = min(need.context, number("context_length", 1 << 30) * need.sequences)
    heads = number("attention.head_count", 1)
    width = number("embedding_length", 1)
    key = number("attention.key_length", width // max(1, heads))
    layers = number("decoder_block_count", number("block_count"))
    shared = header.metadata.get(f"{kind}.attention.head_count_kv", heads)  # LFM2 and Gemma 4 say it layer by layer
    cells = 2 * key * (sum(shared) if isinstance(shared, list) else layers * number("attention.head_count_kv", heads))
    block, block_bytes = gguf_file.BLOCKS[KV_TYPES[need.kv_type]]
    padded = -(-context // 256) * 256
    # the widest tensors of a batch at work, and a row of logits for each sequence (with an encoder: for each of its tokens);
    # the tower's, at work on one tile
    inner = number("feed_forward_length", 4 * width)
    words = header.tensors["token_embd.weight"][0][0] if "token_embd.weight" in header.tensors else 0
    patches = _patches(bundle, need.backend)
    rows = N_BATCH if f"{kind}.decoder_block_count" in header.metadata else 3 * need.sequences
    compute = 4 * (N_BATCH * (3 * inner + 6 * width) + rows * words) + 4 * patches * 8192
    # weights that llama.cpp lays out anew for this CPU are there twice while the file is mapped, but the embeddings, which it
    # reads row by row; a small file is read, not mapped
    file, types = manifest.files["lm"].bytes, LAID_OUT if platform.machine() in ("x86_64", "AMD64") else LAID_OUT_ON_ARM
    twice = sum(size for name, (_, type_, size) in header.tensors.items() if type_ in types and name != "token_embd.weight")
    return Plan(
        base=BASE,
        lm=file if file <= READ_BYTES else file + twice,
        tower=int({"mtmd": 1.0, "onnx": 2.0}[need.backend] * manifest.files[BACKENDS[need.backend]].bytes),
        kv=cells * padded * block_bytes // block,
        compute=compute,
        context=context,
        untouched=40 * N_BATCH * NODE_BYTES if kind in MANY_NODES else 0,
    )


def _patches(bundle: Bundle, backend: str) -> int:
    """Patches of the largest picture that the tower is given at once."""
    pixels = bundle.manifest.runtime.preprocessing
    vision = gguf_file.read(bundle.files[BACKENDS["mtmd"]]).metadata if backend == "mtmd" else {}
    patch = vision.get("clip.vision.patch_size")
    if type(patch) is not int or not 1 <= patch <= pixels.tile or pixels.method == "native":
        return 16 * max(pixels.tile_tokens, pixels.high_tokens)
    return (pixels.tile // patch) ** 2 * (pixels.high_tokens if pixels.method in ("dynamic", "longest") else 1)


def check(bundle: Bundle, need: Need, limit: int, said: str = "the limit is {} MB") -> Plan:
    """Refuse a bundle that does not fit into `limit` bytes, with the figure that would; else its plan."""
    made = plan(bundle, need)
    if made.total <= limit:
        return made
    parts = {"LM": made.lm, "vision tower": made.tower, f"KV cache of {made.context} tokens": made.kv}
    parts |= {"work": made.compute, "programs": made.base}
    listed = ", ".join(f"{name} {megabytes(size)}" for name, size in parts.items())
    advice = f"set --memory-limit {megabytes(made.total)} or more, or use a smaller bundle"
    spare = limit - (made.total - made.kv)
    fits = int(spare / made.kv * made.context) // 256 * 256
    if fits >= 512:
        advice = f"a context of {fits} tokens would fit: --context {fits}; or " + advice
    raise EdgeVqaError(
        f"{bundle.name} needs about {megabytes(made.total)} MB ({listed}), {said.format(megabytes(limit))}", advice
    )


def check_free(bundle: Bundle, need: Need, share: float) -> None:
    """Refuse a bundle that does not fit into this share of the memory that is free; where nobody says what is, none."""
    found = memory_bytes()
    if found is None:
        return
    limit = int(share * found[1])
    # reading the header of a large LM takes time: not where there is room by any measure
    if 4 * bundle.bytes + (2 << 30) > limit:
        check(bundle, need, limit, f"{megabytes(found[1])} MB are free and {{}} MB of them are for it")


def megabytes(size: int) -> int:
    """Rounded up."""
    return -(-size // 10**6)
