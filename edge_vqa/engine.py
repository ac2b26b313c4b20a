"""The llama.cpp session: prefill, decode, KV prefix; owns the native handles.

The picture's part of the prompt stays in the KV cache, so that a second question on it decodes its own tokens only. Every
size is checked before the native call, because llama.cpp aborts the process where it cannot go on.
"""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa import gguf_file, native
from edge_vqa.bundle import Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.prompt import Piece, Text
from edge_vqa.trace import TokenTrace, Trace, step_statistics
from edge_vqa.vision import Embeddings, ImageTokens, VisionTower

N_BATCH = 512
KV_TYPES = {"f16": 1, "f32": 0, "q8_0": 8}  # ggml_type


class Engine:
    """One LM with its vision tower and one KV sequence. Not thread-safe; `Model` takes turns."""

    def __init__(
        self,
        lm: Path,
        vision: Path,
        preprocessing: Preprocessing,
        *,
        context: int | None = None,
        threads: int = 1,
        kv_type: str = "f16",
        gpu_layers: int = -1,
    ) -> None:
        """context: tokens of the KV cache; None makes room for the largest picture. At most what the LM was trained for."""
        self._llama, _ = native.bindings()
        self._model: Any = None
        self._context: Any = None
        self._vision: VisionTower | None = None
        self._batch: Any = None
        self._n_prefix = 0  # cells of the KV cache that the picture's part of the prompt takes
        self._next = 0  # position of what follows it; an image of M-RoPE takes fewer positions than cells
        self._image: npt.NDArray[np.float32] | None = None
        self._image_tokens = 0
        try:
            self._load(lm, vision, preprocessing, context, threads, kv_type, gpu_layers)
        except BaseException:
            self.close()
            raise

    def _load(
        self, lm: Path, vision: Path, pixels: Preprocessing, context: int | None, threads: int, kv_type: str, gpu_layers: int
    ) -> None:
        llama = self._llama
        if kv_type not in KV_TYPES:
            raise EdgeVqaError(f"a KV cache of type {kv_type!r} is unknown", f"use one of {', '.join(KV_TYPES)}")
        if context is None:
            context = max(2048, pixels.most_tokens + 1024)
        if context < 1:
            raise EdgeVqaError(f"a context of {context} tokens holds nothing", "give 1 or more")
        _, tensors = gguf_file.check(lm), gguf_file.check(vision)
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        self._model = llama.llama_model_load_from_file(str(lm).encode(), params)
        if not self._model:
            raise EdgeVqaError(
                f"llama.cpp cannot load {lm.name} ({native.last_complaint() or 'no reason given'})",
                "convert or download the bundle again",
            )
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama.llama_vocab_n_tokens(self._vocab)
        self.n_embd: int = llama.llama_model_n_embd(self._model)
        settings = llama.llama_context_default_params()
        settings.n_ctx = min(context, llama.llama_model_n_ctx_train(self._model))
        settings.n_batch = settings.n_ubatch = N_BATCH
        settings.n_outputs_max = 1  # only the last token of a call is ever read
        settings.n_threads = settings.n_threads_batch = threads
        settings.embeddings = True  # logits and final hidden state from the same call
        settings.pooling_type = llama.LLAMA_POOLING_TYPE_NONE
        settings.type_k = settings.type_v = KV_TYPES[kv_type]
        if kv_type == "f32":  # asks for exactness: flash attention would round to float16 on the way
            settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.no_perf = True
        self._context = llama.llama_init_from_model(self._model, settings)
        if not self._context:
            raise EdgeVqaError(
                f"no context of {settings.n_ctx} tokens could be made ({native.last_complaint() or 'no reason given'})",
                "free some memory or use a smaller bundle",
            )
        self._memory = llama.llama_get_memory(self._context)
        self.n_ctx: int = llama.llama_n_ctx(self._context)
        self._batch = llama.llama_batch_init(N_BATCH, 0, 1)
        width = llama.llama_model_n_embd_inp(self._model)
        self._vision = VisionTower(vision, tensors, self._model, width, pixels, threads)

    # -- text ---------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids, nothing added. With `special` off, special tokens in the text are plain characters."""
        data = text.encode("utf-8", errors="replace")
        room = len(data) + 8
        while True:
            out = (self._llama.llama_token * room)()
            n: int = self._llama.llama_tokenize(self._vocab, data, len(data), out, room, False, special)
            if n >= 0:
                return list(out[:n])
            room = -n

    def piece(self, token: int) -> bytes:
        """The bytes of a token; empty for special tokens."""
        room = 64
        while True:
            out = ctypes.create_string_buffer(room)
            n: int = self._llama.llama_token_to_piece(self._vocab, token, out, room, 0, False)
            if n >= 0:
                return out.raw[:n]
            room = -n

    def chat_template(self) -> str:
        """The gguf's own chat template; empty when it has none."""
        text: bytes | None = self._llama.llama_model_chat_template(self._model, None)
        return (text or b"").decode(errors="replace")

    def is_end(self, token: int) -> bool:
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    # -- prompt -------------------------------------------------------------------------------------------------------

    def embed(self, pieces: Sequence[Piece]) -> Iterator[list[int] | ImageTokens]:
        """What the LM gets for these pieces: token ids and image embeddings. Nothing is decoded."""
        assert self._vision is not None
        for piece in pieces:
            if isinstance(piece, Text):
                yield self.tokenize(piece.text, special=piece.special)
            else:
                yield from self._vision.encode(piece.rgb)

    def open_prefix(self, pieces: Sequence[Piece]) -> None:
        """Encode and prefill everything up to and including the picture; questions then follow it."""
        self._clear(0)
        self._n_prefix = self._next = 0
        embeddings: list[Embeddings] = []
        for part in self.embed(pieces):
            if isinstance(part, ImageTokens):
                self._room(self._n_prefix + len(part.embeddings), "the picture")
                self._decode_image(part, self._next)
                self._n_prefix += len(part.embeddings)
                self._next += part.n_positions
                embeddings.append(part.embeddings)
            else:
                self._prefill(part)
        self._image_tokens = sum(len(e) for e in embeddings)
        self._image = np.concatenate(embeddings).mean(0)

    def _prefill(self, tokens: list[int]) -> None:
        self._room(self._n_prefix + len(tokens), "the picture")
        self._decode_tokens(tokens, self._next)
        self._n_prefix += len(tokens)
        self._next += len(tokens)

    def _room(self, needed: int, what: str) -> None:
        if needed >= self.n_ctx:
            raise EdgeVqaError(
                f"{what} needs {needed} tokens, the context holds {self.n_ctx}",
                "ask a shorter question, or use --detail low",
            )

    def _clear(self, first: int) -> None:
        """Forget everything from position `first` on."""
        if not self._llama.llama_memory_seq_rm(self._memory, 0, first, -1):
            raise EdgeVqaError("llama.cpp could not rewind its cache", "use a model without recurrent layers")

    def _decode_tokens(self, tokens: Sequence[int], position: int, *, output: bool = False) -> None:
        """Decode `tokens` at `position`. With `output`, the call is one token and leaves its logits and hidden state."""
        llama, batch = self._llama, self._batch
        # With embeddings on, every token of a call becomes an output of n_vocab logits: on for the one token only.
        llama.llama_set_embeddings(self._context, output)
        for first in range(0, len(tokens), N_BATCH):
            part = tokens[first : first + N_BATCH]
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i] = token
                batch.pos[i] = position + first + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = output
            self._call(batch)

    def _decode_image(self, image: ImageTokens, position: int) -> None:
        llama, total = self._llama, len(image.embeddings)
        if not image.causal and total > N_BATCH:
            raise EdgeVqaError(
                f"the picture makes {total} tokens that look at each other, at most {N_BATCH} fit", "use --detail low"
            )
        positions = np.arange(total, dtype=np.int32)[None] if image.positions is None else image.positions
        llama.llama_set_embeddings(self._context, False)
        if not image.causal:
            llama.llama_set_causal_attn(self._context, False)
        try:
            for first in range(0, total, N_BATCH):
                part = np.ascontiguousarray(image.embeddings[first : first + N_BATCH])
                n = len(part)
                zero = (llama.llama_seq_id * 1)(0)
                places = np.ascontiguousarray(positions[:, first : first + n] + position)  # [1 or 4, n]: section by section
                batch = llama.llama_batch(
                    n_tokens=n,
                    token=None,
                    embd=part.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                    pos=places.ctypes.data_as(ctypes.POINTER(llama.llama_pos)),
                    n_seq_id=(ctypes.c_int32 * n)(*([1] * n)),
                    seq_id=(ctypes.POINTER(llama.llama_seq_id) * n)(
                        *([ctypes.cast(zero, ctypes.POINTER(llama.llama_seq_id))] * n)
                    ),
                    logits=(ctypes.c_int8 * n)(),
                )
                self._call(batch)
        finally:
            if not image.causal:
                llama.llama_set_causal_attn(self._context, True)

    def _call(self, batch: Any) -> None:
        status: int = self._llama.llama_decode(self._context, batch)
        if status != 0:
            raise EdgeVqaError(
                f"llama.cpp could not decode (status {status}; {native.last_complaint() or 'no reason given'})",
                "run with --verbose to see why",
            )

    # -- answer -------------------------------------------------------------------------------------------------------

    def answer(self, pieces: Sequence[Text], max_tokens: int) -> Iterator[TokenTrace | Trace]:
        """Greedy answer to a question on the open picture: a Trace of its first token, then the tokens as they come, then
        the Trace of all.

        Log-probabilities and entropies come from the raw logits of the row that was decoded; nothing else is copied.
        """
        position, token, cells = self._ask(pieces)
        budget = min(max_tokens, self.n_ctx - cells)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        steps: list[TokenTrace] = []
        hidden: list[npt.NDArray[np.float32]] = []
        text, ended = "", False
        while len(steps) < budget and not ended:
            logits = self._logits(token, position)
            position += 1
            state = np.ctypeslib.as_array(self._llama.llama_get_embeddings_ith(self._context, -1), (self.n_embd,))
            hidden.append(state.copy())
            token = int(logits.argmax())
            ended = self.is_end(token)
            shown = "" if ended else decoder.decode(self.piece(token))
            text += shown
            step = TokenTrace(token, shown, *step_statistics(logits, token))
            steps.append(step)
            if len(steps) == 1:
                yield self._trace(steps, hidden, text, ended, cells)
            yield step
        text += decoder.decode(b"", final=True)
        yield self._trace(steps, hidden, text, ended, cells)

    def _trace(
        self, steps: list[TokenTrace], hidden: list[npt.NDArray[np.float32]], text: str, ended: bool, cells: int
    ) -> Trace:
        assert self._image is not None
        return Trace(
            tokens=tuple(steps),
            text=text.strip(),
            ended=ended,
            image=self._image,
            first_hidden=hidden[0],
            answer_hidden=np.mean(hidden, axis=0, dtype=np.float32),
            image_tokens=self._image_tokens,
            prompt_tokens=cells,
        )

    def score(self, pieces: Sequence[Text], answer: Sequence[int]) -> npt.NDArray[np.float32]:
        """Log-probabilities [len(answer), n_vocab] before each token of a given answer to a question on the open picture."""
        position, token, cells = self._ask(pieces)
        self._room(cells + len(answer), "the answer")
        rows = np.empty((len(answer), self.n_vocab), np.float32)
        for row, following in zip(rows, answer, strict=True):
            row[:] = self._logits(token, position)
            token, position = following, position + 1
        rows -= rows.max(1, keepdims=True)
        rows -= np.log(np.exp(rows, dtype=np.float64).sum(1, keepdims=True)).astype(np.float32)
        return rows

    def _ask(self, pieces: Sequence[Text]) -> tuple[int, int, int]:
        """Prefill a question but for its last token; that token's position, the token, and the cells taken with it."""
        if self._image is None or not self._n_prefix:
            raise EdgeVqaError("no picture is open", "open one first")
        tokens = [token for piece in pieces for token in self.tokenize(piece.text, special=piece.special)]
        self._room(self._n_prefix + len(tokens), "the question")
        self._clear(self._next)
        self._decode_tokens(tokens[:-1], self._next)
        return self._next + len(tokens) - 1, tokens[-1], self._n_prefix + len(tokens)

    def _logits(self, token: int, position: int) -> npt.NDArray[np.float32]:
        """Decode one token; its logits [n_vocab], which the next call overwrites."""
        self._decode_tokens([token], position, output=True)
        return np.ctypeslib.as_array(self._llama.llama_get_logits_ith(self._context, -1), (self.n_vocab,))

    def close(self) -> None:
        """Free every native handle, in the order llama.cpp needs; safe to call twice."""
        if self._vision is not None:
            self._vision.close()
            self._vision = None
        if self._batch is not None:
            self._llama.llama_batch_free(self._batch)
            self._batch = None
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None
