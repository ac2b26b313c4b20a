"""What a trial runs, in a child process (`child.run`): the library on this CPU, or a bundle. Says how far it came."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import bindings, trial
from edge_vqa.native.trial import Library

if TYPE_CHECKING:
    from edge_vqa.llm.llama import Logits

WIDTH, HEADS, WORDS = 256, 4, 64
PROMPT = 40  # tokens: enough for every path of a product with many rows
SAME = 0.05  # of the range of the logits: what another order of sums may change
# Matrices of the trial's one layer: name -> rows, ggml type, a block of it. Blocks hold small numbers of both signs, all of
# them the same: which instructions run does not depend on values.
_HALF = struct.pack("<e", 0.0625)
MATRICES = {
    "attn_k": (64, 0, struct.pack("<ff", 0.0625, -0.0625)),
    "attn_v": (64, 1, struct.pack("<ee", 0.0625, -0.0625)),
    "attn_q": (WIDTH, 8, _HALF + bytes(range(1, 17)) + bytes(range(240, 256))),
    "attn_output": (WIDTH, 2, _HALF + bytes(range(3, 243, 15))),
    "ffn_gate": (WIDTH, 3, _HALF + struct.pack("<e", -0.5) + bytes(range(3, 243, 15))),
    "ffn_up": (WIDTH, 12, _HALF + _HALF + bytes([0x41] * 12) + bytes(range(1, 256, 2))),
    "ffn_down": (WIDTH, 14, bytes(range(128)) + bytes([0x55] * 64) + bytes([3] * 16) + _HALF),
}


UNLIMITED = 1 << 50  # bytes: the child has a limit of its own


def main(request: dict[str, Any]) -> Iterator[Any]:
    """request: {"rank": names of variants} | {"library": a variant or ""} | {"onnxruntime": true} | {"bundle": its folder,
    "library": a verdict}."""
    if "rank" in request:
        yield _rank(request["rank"])
    elif "bundle" in request:
        bindings.use(Library(**request["library"]))
        yield from _bundle(Path(request["bundle"]))
    elif "onnxruntime" in request:
        yield _onnxruntime()
    else:
        yield from _library(request["library"])


def _rank(names: list[str]) -> list[str]:
    """Those that this CPU can run, the best first; each says so itself."""
    folder = trial.folder()
    for base in ("libggml-base.so", "libggml.so"):
        ctypes.CDLL(str(folder / base), mode=ctypes.RTLD_GLOBAL)
    scores = {name: int(ctypes.CDLL(str(folder / name)).ggml_backend_score()) for name in names}
    return sorted((name for name in names if scores[name] > 0), key=lambda name: -scores[name])


def _library(variant: str) -> Iterator[Any]:
    bindings.use(Library(variant))
    try:
        bindings.load()
    except EdgeVqaError as error:
        yield {"failed": error.what}
        return
    features = bindings.cpu_features()
    yield {"features": sorted(features)}
    import numpy as np

    plain = _products(extra_buffers=False)
    yield {"plain": bool(np.isfinite(plain).all() and plain.std() > 0)}
    yield {"tower": _tower()}

    def agree() -> bool:
        return bool(np.abs(_products(extra_buffers=True) - plain).max() < SAME * np.ptp(plain))

    if "AMX_INT8" in features:  # faulty code is known of it: the others come first, and may do without it
        bindings.list_extra_buffers(without=b"AMX")
        yield {"without_amx": agree()}
        bindings.list_extra_buffers()
    yield {"extra": agree()}


def _onnxruntime() -> dict[str, Any]:
    """Whether it loads, and makes a probability of noughts with the embedded model's Selector."""
    import numpy as np

    from edge_vqa.bundles import store
    from edge_vqa.native import onnx_runtime

    graph = store.read(store.EMBEDDED / "mini").files["selector"]
    try:
        session = onnx_runtime.load(graph.read_bytes(), graph.name, "")
    except ImportError as error:
        return {"failed": f"it does not load: {error}"}
    noughts = {i.name: np.zeros((1, i.shape[-1]), np.float32) for i in session.get_inputs()}
    (confidence,) = session.run(["confidence"], noughts)[0].reshape(-1)
    return {"onnxruntime": bool(0 <= confidence <= 1)}


def _bundle(folder: Path) -> Iterator[Any]:
    """Ask a question with each vision tower and each Selector; yields what it is about to do, or what is wrong."""
    import numpy as np

    from edge_vqa.bundles import store
    from edge_vqa.device import admission
    from edge_vqa.llm.threads import Threads
    from edge_vqa.model import Model
    from edge_vqa.session.options import Options
    from edge_vqa.trust import confidence as confidences

    admission.trying = True
    try:
        bundle = store.read(folder)
        for backend in admission.backends(bundle):
            yield f"loading it ({backend})"
            options = Options(confidence="maxprob", vision=backend, threads=Threads.of(2), watch=False, memory_limit=UNLIMITED)
            with Model(bundle, options) as model:
                yield "answering a question"
                picture = np.zeros((64, 96, 3), np.uint8)
                picture[16:48, 24:72] = (220, 20, 20)
                trace = model.ask(picture, "what is this?", gate=False, max_tokens=3).trace
    except EdgeVqaError as error:
        yield {"what": error.what, "todo": error.todo}
        return
    for method in (confidences.Selector, confidences.SelectorEarly):
        if method.role in bundle.files:
            yield f"scoring it ({method.name})"
            with contextlib.suppress(EdgeVqaError):  # who uses it is told then: another method may do
                method(bundle).score(trace)


def _products(*, extra_buffers: bool) -> Logits:
    """Logits [2, n_vocab] behind many tokens at once, and behind one more, of an LM with a matrix of each type."""
    import numpy as np

    from edge_vqa.llm.llama import Llama, Run
    from edge_vqa.llm.threads import Threads

    bindings.use_extra_buffers(extra_buffers)
    with _file(_gguf()) as path:
        lm = Llama(path, context=2 * PROMPT, threads=Threads.of(2), kv_type="f16")
        try:
            lm.prefill([Run(0, 0, [i % WORDS for i in range(PROMPT)])])
            return np.stack([lm.step([(0, PROMPT + i, 1)])[0][0].copy() for i in range(2)])
        finally:
            lm.close()


def _tower() -> bool:
    """Whether the embedded model's vision tower makes numbers of a picture, and its LM an answer of those."""
    import numpy as np

    from edge_vqa.bundles import store
    from edge_vqa.device.tuning import noise_tile
    from edge_vqa.llm.llama import Llama
    from edge_vqa.llm.threads import Threads
    from edge_vqa.vision.tokens import ImageTokens
    from edge_vqa.vision.tower import open_tower

    found = store.read(store.EMBEDDED / "mini")
    pixels = found.manifest.runtime.preprocessing
    lm = Llama(found.files["lm"], context=64, threads=Threads.of(1))
    tower = open_tower("mtmd", found.files["vision"], pixels, 2)(lm.model, lm.n_embd_in)
    (part,) = tower.encode(noise_tile(pixels))
    return isinstance(part, ImageTokens) and bool(np.isfinite(part.embeddings).all())


class _file:  # noqa: N801 - used as a function
    """A path at which a library finds some bytes; in memory where the system can do that."""

    def __init__(self, content: bytes) -> None:
        self._name = ""
        if hasattr(os, "memfd_create"):
            self._number = os.memfd_create("trial")
        else:
            import tempfile

            self._number, self._name = tempfile.mkstemp(suffix=".gguf")
        with os.fdopen(os.dup(self._number), "wb") as stream:
            stream.write(content)

    def __enter__(self) -> Path:
        return Path(self._name or f"/proc/self/fd/{self._number}")

    def __exit__(self, *_: object) -> None:
        os.close(self._number)
        if self._name:
            Path(self._name).unlink()


def _gguf() -> bytes:
    """A llama of one layer without a tokenizer, in version 3 of the format."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return struct.pack("<II", 4, value)

    keys = {
        "general.architecture": struct.pack("<I", 8) + text("llama"),
        "llama.block_count": number(1),
        "llama.context_length": number(4 * PROMPT),
        "llama.embedding_length": number(WIDTH),
        "llama.feed_forward_length": number(WIDTH),
        "llama.attention.head_count": number(HEADS),
        "llama.attention.head_count_kv": number(1),
        "llama.attention.layer_norm_rms_epsilon": struct.pack("<If", 6, 1e-5),
        "llama.vocab_size": number(WORDS),
        "tokenizer.ggml.model": struct.pack("<I", 8) + text("no_vocab"),
    }
    ramp = b"".join(struct.pack("<f", (i * 37 % 101 - 50) / 50) for i in range(WORDS * WIDTH))
    ones = struct.pack("<f", 1.0) * WIDTH
    tensors = {"token_embd.weight": ((WIDTH, WORDS), 0, ramp), "output_norm.weight": ((WIDTH,), 0, ones)}
    tensors |= {f"blk.0.{name}_norm.weight": ((WIDTH,), 0, ones) for name in ("attn", "ffn")}
    for name, (rows, kind, block) in MATRICES.items():
        weights = {0: 2, 1: 2, 12: 256, 14: 256}.get(kind, 32)
        tensors[f"blk.0.{name}.weight"] = ((WIDTH, rows), kind, block * (rows * WIDTH // weights))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(text(key) + value for key, value in keys.items())
    data = b""
    for name, (shape, kind, content) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    return head + b"\0" * (-len(head) % 32) + data
