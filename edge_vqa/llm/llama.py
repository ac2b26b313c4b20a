"""One LM in llama.cpp: loads it, tokenizes, and decodes batches over one or several sequences of its KV cache.

Every size is checked before the native call, because llama.cpp aborts the process where it cannot go on.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles import gguf_file
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.states import ARCHITECTURES, LastStates
from edge_vqa.llm.threads import Threads
from edge_vqa.native import bindings
from edge_vqa.trust.trace import step_statistics

N_BATCH = 512
# mapped and repacked, weights are in memory twice; a file of this size is read in some hundredths of a second
READ_BYTES = 256 * 2**20
KV_TYPES = {"f16": 1, "f32": 0, "q8_0": 8}  # ggml_type
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Run:
    """Tokens to decode at the end of a sequence: ids, or embeddings [n, n_embd]; the first at `position`.

    positions: [4, n] from `position` on, for embeddings under M-RoPE; None where they simply follow each other.
    """

    sequence: int
    position: int
    tokens: Sequence[int] | npt.NDArray[np.float32]
    positions: npt.NDArray[np.int32] | None = None


class Llama:
    """Owns the LM and its context. Not thread-safe, but for `tokenize`."""

    def __init__(
        self, path: Path, *, context: int, threads: Threads, kv_type: str = "f16", gpu_layers: int = -1, sequences: int = 1
    ) -> None:
        """context: tokens of the KV cache, at most what the LM was trained for; several sequences share it."""
        self._llama, _ = bindings.load()
        self.model: Any = None
        self._context: Any = None
        if kv_type not in KV_TYPES:
            raise EdgeVqaError(f"a KV cache of type {kv_type!r} is unknown", f"use one of {', '.join(KV_TYPES)}")
        if context < 1:
            raise EdgeVqaError(f"a context of {context} tokens holds nothing", "give 1 or more")
        gguf_file.check(path)
        try:
            self._load(path, context, threads, kv_type, gpu_layers, sequences)
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, context: int, threads: Threads, kv_type: str, gpu_layers: int, sequences: int) -> None:
        llama = self._llama
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = bindings.library().extra_buffers
        if params.use_extra_bufts and path.stat().st_size <= READ_BYTES:
            params.load_mode = llama.LLAMA_LOAD_MODE_NONE
        self.model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise EdgeVqaError(
                f"llama.cpp cannot load {path.name} ({bindings.last_complaint() or 'no reason given'})",
                "convert or download the bundle again",
            )
        self._vocab = llama.llama_model_get_vocab(self.model)
        self.n_vocab: int = llama.llama_vocab_n_tokens(self._vocab)
        self.n_embd: int = llama.llama_model_n_embd(self.model)
        self.n_embd_in: int = llama.llama_model_n_embd_inp(self.model)
        # of an LM with an encoder: the token that its decoder begins with
        self.encodes = bool(llama.llama_model_has_encoder(self.model))
        self.start: int = llama.llama_model_decoder_start_token(self.model) if self.encodes else -1
        settings = llama.llama_context_default_params()
        settings.n_ctx = min(context, llama.llama_model_n_ctx_train(self.model) * sequences)
        settings.n_batch = settings.n_ubatch = N_BATCH
        # a recurrent state cannot be cut back to the end of a picture: one sequence more, which begins as a copy of it
        self._rewinds = not (llama.llama_model_is_recurrent(self.model) or llama.llama_model_is_hybrid(self.model))
        settings.n_seq_max = settings.n_outputs_max = sequences + (not self._rewinds)  # the last token of each is read
        settings.kv_unified = True  # sequences share the cells of a picture
        settings.n_threads, settings.n_threads_batch = threads.decode, threads.prefill
        settings.embeddings = True  # logits and final hidden state from the same call
        settings.pooling_type = llama.LLAMA_POOLING_TYPE_NONE
        settings.type_k = settings.type_v = KV_TYPES[kv_type]
        if kv_type == "f32":  # asks for exactness: flash attention would round to float16 on the way
            settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.no_perf = True
        kind = ctypes.create_string_buffer(64)
        llama.llama_model_meta_val_str(self.model, b"general.architecture", kind, len(kind))
        self._states = LastStates(self.n_embd) if kind.value in ARCHITECTURES else None
        if self._states is not None:
            settings.cb_eval = self._states.callback
        self._context = llama.llama_init_from_model(self.model, settings)
        if not self._context:
            raise EdgeVqaError(
                f"no context of {settings.n_ctx} tokens could be made ({bindings.last_complaint() or 'no reason given'})",
                "free some memory or use a smaller bundle",
            )
        self._memory = llama.llama_get_memory(self._context)
        self.n_ctx: int = llama.llama_n_ctx(self._context)
        self.sequences = sequences
        self._make_batch()

    def set_threads(self, prefill: int, decode: int) -> None:
        """CPU threads of the calls that follow."""
        self._llama.llama_set_n_threads(self._context, decode, prefill)

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
        text: bytes | None = self._llama.llama_model_chat_template(self.model, None)
        return (text or b"").decode(errors="replace")

    def is_end(self, token: int) -> bool:
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    # -- cache --------------------------------------------------------------------------------------------------------

    def clear(self, sequence: int | None = None, first: int = 0) -> None:
        """Forget a sequence from position `first` on; or all sequences."""
        if sequence is None:
            self._llama.llama_memory_clear(self._memory, False)
        elif not self._llama.llama_memory_seq_rm(self._memory, sequence, first, -1):
            raise EdgeVqaError("llama.cpp could not rewind its cache", "use a model without recurrent layers")

    def fork(self, position: int) -> int:
        """A sequence that holds what sequence 0 holds before `position`, its prefix, and will go on from there."""
        if self._rewinds:
            self.clear(0, position)
            return 0
        self.clear(self.sequences)
        self.share(0, self.sequences)
        return self.sequences

    def share(self, source: int, target: int) -> None:
        """Let another sequence begin with all that `source` holds; no cell is copied."""
        self._llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    # -- decoding -----------------------------------------------------------------------------------------------------

    def _make_batch(self) -> None:
        """Buffers of a call, filled in place: nothing is allocated while tokens are decoded."""
        llama = self._llama
        self._tokens = np.zeros(N_BATCH, np.int32)
        self._positions = np.zeros(4 * N_BATCH, np.int32)
        n = self.sequences + 1
        self._numbers = (llama.llama_seq_id * n)(*range(n))
        self._addresses = ctypes.addressof(self._numbers) + 4 * np.arange(n, dtype=np.uint64)
        self._places = np.zeros(N_BATCH, np.uint64)  # addresses of sequence numbers
        self._ones = np.ones(N_BATCH, np.int32)
        self._read = np.zeros(N_BATCH, np.int8)
        self._ids = self._tokens.ctypes.data_as(ctypes.POINTER(llama.llama_token))
        self._batch = llama.llama_batch(
            n_tokens=0,
            token=self._ids,
            embd=None,
            pos=self._positions.ctypes.data_as(ctypes.POINTER(llama.llama_pos)),
            n_seq_id=self._ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._places.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(llama.llama_seq_id))),
            logits=self._read.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def prefill(self, runs: Sequence[Run]) -> None:
        """Decode tokens without asking for any output. All runs hold token ids, or all hold embeddings."""
        # With embeddings on, every token of a call becomes an output of n_vocab logits: off, but for single tokens.
        self._llama.llama_set_embeddings(self._context, False)
        self._read[:] = 0
        self._fill(runs, self._decode)

    def encode(self, runs: Sequence[Run]) -> None:
        """Show the encoder what the answers of these sequences will attend to, all of it in one call; what it was shown before
        is forgotten. As `prefill`."""
        total = sum(len(run.tokens) for run in runs)
        if total > N_BATCH:
            raise EdgeVqaError(f"the encoder is given {total} tokens, at most {N_BATCH} fit", "ask a shorter question")
        self._llama.llama_set_embeddings(self._context, True)
        self._read[:] = 1
        self._fill(runs, self._encode)

    def _fill(self, runs: Sequence[Run], call: Callable[[int], None]) -> None:
        lengths = [len(run.tokens) for run in runs]
        places = np.repeat(self._addresses[[run.sequence for run in runs]], lengths)
        embedded = any(isinstance(run.tokens, np.ndarray) for run in runs)
        positions = np.concatenate([_positions(run, 4 if run.positions is not None else 1) for run in runs], 1)
        values = np.concatenate([np.asarray(run.tokens, np.float32 if embedded else np.int32) for run in runs])
        for first in range(0, len(places), N_BATCH):
            part = np.ascontiguousarray(values[first : first + N_BATCH])
            n = len(part)
            chunk = positions[:, first : first + n].ravel()  # section by section
            self._positions[: len(chunk)] = chunk
            self._places[:n] = places[first : first + n]
            if embedded:
                self._batch.token = None
                self._batch.embd = part.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            else:
                self._tokens[:n] = part
            try:
                call(n)
            finally:
                self._batch.embd, self._batch.token = None, self._ids

    def prefill_whole(self, runs: Sequence[Run]) -> None:
        """`prefill` of embeddings that look at each other: one call, each token sees those behind it too."""
        total = sum(len(run.tokens) for run in runs)
        if total > N_BATCH:
            raise EdgeVqaError(
                f"the picture makes {total} tokens that look at each other, at most {N_BATCH} fit", "use --detail low"
            )
        self._llama.llama_set_causal_attn(self._context, False)
        try:
            self.prefill(runs)
        finally:
            self._llama.llama_set_causal_attn(self._context, True)

    def step(self, tokens: Sequence[tuple[int, int, int]]) -> list[tuple[Logits, Logits]]:
        """Decode one token each of some sequences, (sequence, position, token): logits [n_vocab], final hidden state [n_embd].

        Both are views that the next call overwrites.
        """
        llama, n = self._llama, len(tokens)
        llama.llama_set_embeddings(self._context, self._states is None)
        for i, (sequence, position, token) in enumerate(tokens):
            self._tokens[i], self._positions[i], self._places[i] = token, position, self._addresses[sequence]
        self._read[:n] = 1
        if self._states is not None:
            self._states.begin()
        self._decode(n)
        logits = [bindings.floats(llama.llama_get_logits_ith(self._context, i), self.n_vocab) for i in range(n)]
        if self._states is not None:
            return list(zip(logits, self._states.take(), strict=True))
        states = (bindings.floats(llama.llama_get_embeddings_ith(self._context, i), self.n_embd) for i in range(n))
        return list(zip(logits, states, strict=True))

    def speed(self, prompt: int, answer: int) -> tuple[float, float]:
        """Seconds to prefill a prompt of so many tokens, and then to decode an answer of so many, with all that a token costs.

        As `llama-bench` does it: the tokens mean nothing. Forgets every sequence.
        """
        self.clear()
        began = time.perf_counter()
        place = 0 if self.encodes else prompt - 1
        if self.encodes:
            self.encode([Run(0, 0, [1] * prompt)])
        elif prompt > 1:
            self.prefill([Run(0, 0, [1] * (prompt - 1))])
        self.step([(0, place, 1)])  # its logits come when all of the prompt is decoded
        prefilled = time.perf_counter()
        for number in range(1, answer + 1):
            ((logits, _),) = self.step([(0, place + number, 1)])
            step_statistics(logits, int(logits.argmax()))
        return prefilled - began, time.perf_counter() - prefilled

    def _decode(self, n: int) -> None:
        self._run("decode", n)

    def _encode(self, n: int) -> None:
        self._run("encode", n)

    def _run(self, verb: str, n: int) -> None:
        """llama_decode or llama_encode the batch's first n tokens."""
        self._batch.n_tokens = n
        status: int = getattr(self._llama, f"llama_{verb}")(self._context, self._batch)
        if status != 0:
            raise EdgeVqaError(
                f"llama.cpp could not {verb} (status {status}; {bindings.last_complaint() or 'no reason given'})",
                "run with --verbose to see why",
            )

    def close(self) -> None:
        """Free every native handle, in the order llama.cpp needs; safe to call twice."""
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None
        if self.model:
            self._llama.llama_model_free(self.model)
            self.model = None


def _positions(run: Run, sections: int) -> npt.NDArray[np.int32]:
    """[sections, n]"""
    if run.positions is not None:
        return run.positions + np.int32(run.position)
    return np.arange(run.position, run.position + len(run.tokens), dtype=np.int32)[None].repeat(sections, 0)
