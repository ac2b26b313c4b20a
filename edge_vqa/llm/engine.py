"""The session: encodes pictures, prefills them, asks questions behind them, and records what each answer left behind.

The picture's part of the prompt stays in the KV cache, so that a second question on it decodes its own tokens only. Several
questions can be answered together: each is a sequence of its own, and those on one picture share its cells.

Where what the LM makes of a picture hangs on the question, because it has an encoder (T5) or because the tower reads the
question (InstructBLIP), only what the tower makes of the picture is kept.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles.manifest import Preprocessing, Thinking
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.embeddings import TokenEmbeddings
from edge_vqa.llm.llama import N_BATCH, Llama, Run
from edge_vqa.llm.prompt import Piece, Text
from edge_vqa.llm.thinking import Thought, Tokens
from edge_vqa.llm.threads import Threads
from edge_vqa.trust.trace import TokenTrace, Trace, step_statistics
from edge_vqa.vision.tokens import ImageTokens, Part, Tower
from edge_vqa.vision.tower import open_tower


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a prefilled picture takes: cells of the KV cache, and the position of what follows (an image of M-RoPE takes fewer
    positions than cells); what a trace tells of it, see `Trace`."""

    cells: int
    next: int
    image: npt.NDArray[np.float32]
    image_spread: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.float32] | None
    summary: npt.NDArray[np.float32] | None
    image_tokens: int


class Engine:
    """One LM with its vision tower. Not thread-safe, but that `embed` may run beside anything; `Model` takes turns."""

    def __init__(
        self,
        lm: Path,
        vision: Path,
        preprocessing: Preprocessing,
        *,
        backend: str = "mtmd",
        context: int | None = None,
        threads: Threads | int = 1,
        kv_type: str = "f16",
        gpu_layers: int = -1,
        sequences: int = 1,
    ) -> None:
        """backend: what runs the file `vision` (`vision.BACKENDS`). context: tokens of the KV cache; None makes room for the
        largest picture. sequences: how many questions may be answered together."""
        threads = Threads.of(threads)
        self._thinks: Tokens | None = None
        self._prefix: Prefix | None = None
        self._parts: list[Part] | None = None  # in place of a prefix, where nothing is decoded before the question is known
        self._tower: Tower | None = None
        context = room_for(preprocessing) if context is None else context
        finish = open_tower(backend, vision, preprocessing, threads.vision)
        self.lm = Llama(lm, context=context, threads=threads, kv_type=kv_type, gpu_layers=gpu_layers, sequences=sequences)
        try:
            self._tower = finish(self.lm.model, self.lm.n_embd_in)
            self.shares = not (self.lm.encodes or self._tower.reads)  # one picture's cells between questions
            self._embeddings = TokenEmbeddings(lm) if self.lm.encodes else None
        except BaseException:
            self.close()
            raise

    def think(self, thinking: Thinking | None) -> None:
        """Say how the model thinks before it answers."""
        self._thinks = Tokens(self.lm, thinking) if thinking is not None else None

    # -- picture ------------------------------------------------------------------------------------------------------

    def embed(self, pieces: Sequence[Piece]) -> Iterator[Part]:
        """What the LM gets for these pieces: token ids and image embeddings. Nothing is decoded."""
        assert self._tower is not None
        for piece in pieces:
            if isinstance(piece, Text):
                yield self.lm.tokenize(piece.text, special=piece.special)
            else:
                yield from self._tower.encode(piece.rgb)

    def open_prefix(self, parts: Iterable[Part]) -> None:
        """Prefill everything up to and including the picture; questions then follow it."""
        self._prefix = self._parts = None
        self.lm.clear()
        if not self.shares:
            self._parts = list(parts)
            return
        (self._prefix,) = self._prefill([list(parts)])

    def _prefill(self, pictures: Sequence[Sequence[Part]]) -> list[Prefix]:
        """Prefill pictures, number i into sequence i. Where their parts go in step, they are decoded together."""
        cells, places = [0] * len(pictures), [0] * len(pictures)
        total = sum(cells_of(part) for parts in pictures for part in parts)
        self._room(total, "the picture")
        for number in range(max(map(len, pictures))):
            text: list[Run] = []
            images: list[Run] = []
            causal = True
            for sequence, parts in enumerate(pictures):
                if number >= len(parts):
                    continue
                part = parts[number]
                if isinstance(part, ImageTokens):
                    images.append(Run(sequence, places[sequence], part.embeddings, part.positions))
                    places[sequence] += part.n_positions
                    causal = causal and part.causal
                elif part:
                    text.append(Run(sequence, places[sequence], part))
                    places[sequence] += len(part)
                cells[sequence] += cells_of(part)
            if text:
                self.lm.prefill(text)
            if images and causal:
                self.lm.prefill(images)
            for run in images if not causal else ():
                self.lm.prefill_whole([run])
        return [_prefix(*one) for one in zip(pictures, cells, places, strict=True)]

    @property
    def room(self) -> int:
        """Tokens of pictures, questions and answers that there is room for at once."""
        return min(self.lm.n_ctx, N_BATCH) if self.lm.encodes else self.lm.n_ctx

    def _room(self, needed: int, what: str) -> None:
        if needed >= self.room:
            raise EdgeVqaError(
                f"{what} needs {needed} tokens, the context holds {self.room}",
                "ask a shorter question, or use --detail low",
            )

    # -- answer -------------------------------------------------------------------------------------------------------

    def answer(self, pieces: Sequence[Text], max_tokens: int) -> Iterator[TokenTrace | Trace]:
        """Greedy answer to a question on the open picture: a Trace of its first token, then the tokens as they come, then
        the Trace of all.

        Log-probabilities and entropies come from the raw logits of the row that was decoded; nothing else is copied.
        """
        draft = self._ask(pieces, max_tokens)
        while not draft.done:
            ((logits, state),) = self.lm.step([draft.due])
            step = draft.take(logits, state)
            if step is None:
                continue
            if len(draft.steps) == 1:
                yield draft.trace()
            yield step
        yield draft.trace()

    def answer_together(
        self,
        pictures: Sequence[Sequence[Part]],
        asked: Sequence[tuple[int, Sequence[Text]]],
        max_tokens: int,
        go_on: Callable[[int, TokenTrace, Callable[[], Trace]], bool] | None = None,
    ) -> list[Trace]:
        """Greedy answers to several questions, each on one of the pictures: (number of the picture, question).

        At most as many questions as the engine has sequences, and each picture is asked about. go_on: is given each token of
        a question's answer, with what makes the trace so far, and says whether to decode further.
        """
        self._prefix = self._parts = None
        self.lm.clear()
        if self.shares:
            drafts = self._share(pictures, asked, max_tokens)
        else:
            drafts = self._begin([(pictures[number], pieces) for number, pieces in asked], max_tokens)
        live = list(enumerate(drafts))
        while live:
            rows = self.lm.step([draft.due for _, draft in live])
            for (number, draft), (logits, state) in zip(live, rows, strict=True):
                step = draft.take(logits, state)
                if go_on is not None and step is not None:
                    draft.done = not go_on(number, step, draft.trace) or draft.done
            live = [(number, draft) for number, draft in live if not draft.done]
        return [draft.trace() for draft in drafts]

    def _share(
        self, pictures: Sequence[Sequence[Part]], asked: Sequence[tuple[int, Sequence[Text]]], max_tokens: int
    ) -> list[_Draft]:
        """Prefill pictures, and questions on them but for their last tokens; those on one picture share its cells."""
        prefixes = self._prefill(pictures)
        tokens = [self.tokens(pieces) for _, pieces in asked]
        needed = sum(prefix.cells for prefix in prefixes) + sum(map(len, tokens))
        if len(asked) > 1:
            self._room(needed + self.longest(max_tokens) * len(asked), "a round of questions")
        else:  # its answer gets what room there is, as in `answer`
            self._room(needed, "the question")
        # the first question on a picture goes on in its sequence, others begin with the same cells in one of their own
        free = iter(range(len(pictures), len(asked)))
        taken: set[int] = set()
        sequences = []
        for picture, _ in asked:
            sequences.append(picture if picture not in taken else next(free))
            taken.add(picture)
            if sequences[-1] != picture:
                self.lm.share(picture, sequences[-1])
        drafts = []
        runs = []
        for (picture, _), sequence, question in zip(asked, sequences, tokens, strict=True):
            prefix = prefixes[picture]
            runs.append(Run(sequence, prefix.next, question[:-1]))
            drafts.append(self._draft(prefix, sequence, question, max_tokens, self.lm.n_ctx - needed))
        self.lm.prefill([run for run in runs if len(run.tokens)])
        return drafts

    def read(self, parts: Iterable[Part], pieces: Sequence[Text]) -> list[Part]:
        """What the LM sees of pictures under a question: the same, but of a tower that reads it."""
        assert self._tower is not None
        text = "".join(piece.text for piece in pieces if not piece.special)
        return [self._tower.read(part, text) if isinstance(part, ImageTokens) else part for part in parts]

    def _begin(self, asked: Sequence[tuple[Sequence[Part], Sequence[Text]]], max_tokens: int) -> list[_Draft]:
        """Pictures with a question each, number i in sequence i: what the tower makes of both, encoded or prefilled."""
        seen = [self.read(parts, pieces) for parts, pieces in asked]
        tokens = [self.tokens(pieces) for _, pieces in asked]
        lengths = [sum(map(cells_of, parts)) + len(own) for parts, own in zip(seen, tokens, strict=True)]
        self._room(sum(lengths) + (self.longest(max_tokens) * len(asked) if len(asked) > 1 else 0), "the question")
        if self._embeddings is None:
            prefixes = self._prefill(seen)
            runs = [Run(number, prefixes[number].next, own[:-1]) for number, own in enumerate(tokens)]
            self.lm.prefill([run for run in runs if len(run.tokens)])
        else:
            table = self._embeddings
            rows = [
                np.concatenate([part.embeddings if isinstance(part, ImageTokens) else table(part) for part in (*parts, own)])
                for parts, own in zip(seen, tokens, strict=True)
            ]
            self.lm.encode([Run(number, 0, own) for number, own in enumerate(rows)])
            # the decoder begins with a token of its own, which sees all of that
            prefixes = [_prefix(parts, length - 1, 0) for parts, length in zip(seen, lengths, strict=True)]
            tokens = [[self.lm.start] for _ in tokens]
        room = self.lm.n_ctx - 1 if self._embeddings is not None else self.lm.n_ctx - sum(lengths)
        return [
            self._draft(prefix, number, own, max_tokens, room)
            for number, (prefix, own) in enumerate(zip(prefixes, tokens, strict=True))
        ]

    def speed(self, prompt: int, answer: int) -> tuple[float, float]:
        """See `Llama.speed`. Closes the open picture."""
        self._room(prompt + answer, "the measurement")
        self._prefix = self._parts = None
        return self.lm.speed(prompt, answer)

    def cells(self, pieces: Sequence[Text]) -> int:
        """Cells of the KV cache that a question takes beside its picture's and its answer's."""
        return len(self.tokens(pieces))

    def score(self, pieces: Sequence[Text], answer: Sequence[int]) -> npt.NDArray[np.float32]:
        """Log-probabilities [len(answer), n_vocab] before each token of a given answer to a question on the open picture."""
        draft = self._ask(pieces, len(answer))
        self._room(draft.cells + len(answer), "the answer")
        rows = np.empty((len(answer), self.lm.n_vocab), np.float32)
        sequence, position, token = draft.due
        for row, following in zip(rows, answer, strict=True):
            row[:] = self.lm.step([(sequence, position, token)])[0][0]
            token, position = following, position + 1
        rows -= rows.max(1, keepdims=True)
        rows -= np.log(np.exp(rows, dtype=np.float64).sum(1, keepdims=True)).astype(np.float32)
        return rows

    def tokens(self, pieces: Sequence[Text]) -> list[int]:
        """Token ids of a question's pieces."""
        return [token for piece in pieces for token in self.lm.tokenize(piece.text, special=piece.special)]

    def _ask(self, pieces: Sequence[Text], max_tokens: int) -> _Draft:
        """Prefill a question on the open picture but for its last token."""
        if self._parts is not None:
            self.lm.clear()
            (draft,) = self._begin([(self._parts, pieces)], max_tokens)
            return draft
        prefix = self._prefix
        if prefix is None:
            raise EdgeVqaError("no picture is open", "open one first")
        tokens = self.tokens(pieces)
        self._room(prefix.cells + len(tokens), "the question")
        sequence = self.lm.fork(prefix.next)
        if len(tokens) > 1:
            self.lm.prefill([Run(sequence, prefix.next, tokens[:-1])])
        return self._draft(prefix, sequence, tokens, max_tokens, self.lm.n_ctx - prefix.cells - len(tokens))

    def longest(self, max_tokens: int) -> int:
        """Cells of the longest answer, what is thought before it included."""
        return max_tokens + (self._thinks.most + len(self._thinks.cut) if self._thinks is not None else 0)

    def _draft(self, prefix: Prefix, sequence: int, question: Sequence[int], max_tokens: int, room: int) -> _Draft:
        """An answer that gets so much room, half of it at most for what is thought before."""
        thought = None
        if self._thinks is not None:
            most = min(self._thinks.most, room // 2)
            thought = Thought(self.lm, self._thinks, most)
            room -= most + len(self._thinks.cut)
        return _Draft(self.lm, prefix, sequence, question, min(max_tokens, room), thought)

    def close(self) -> None:
        """Free every native handle; safe to call twice."""
        if self._tower is not None:
            self._tower.close()
            self._tower = None
        self.lm.close()


class _Draft:
    """A greedy answer in the making. `due`: (sequence, position, token) that is decoded next."""

    def __init__(
        self,
        lm: Llama,
        prefix: Prefix,
        sequence: int,
        question: Sequence[int],
        budget: int,
        thought: Thought | None,
    ) -> None:
        self._lm, self._prefix, self._budget, self._thought = lm, prefix, budget, thought
        self.due = (sequence, prefix.next + len(question) - 1, question[-1])
        self.cells = prefix.cells + len(question)
        self.steps: list[TokenTrace] = []
        self._hidden: list[npt.NDArray[np.float32]] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text, self._ended = "", False
        self.done = budget < 1

    def take(self, logits: npt.NDArray[np.float32], state: npt.NDArray[np.float32]) -> TokenTrace | None:
        """Choose the next token from a row of logits [n_vocab]; `state` [n_embd] is the hidden state that made it. None where
        it is no part of the answer."""
        token = int(logits.argmax())
        sequence, position, _ = self.due
        following = self._thought.after(token) if self._thought is not None else None
        if following is not None:
            self.due = (sequence, position + 1, following)
            return None
        self._hidden.append(state.copy())
        self._ended = self._lm.is_end(token)
        shown = "" if self._ended else self._decoder.decode(self._lm.piece(token))
        self._text += shown
        self.steps.append(TokenTrace(token, shown, *step_statistics(logits, token)))
        self.due = (sequence, position + 1, token)
        self.done = self._ended or len(self.steps) >= self._budget
        if self.done:
            self._text += self._decoder.decode(b"", final=True)
        return self.steps[-1]

    def trace(self) -> Trace:
        return Trace(
            tokens=tuple(self.steps),
            text=self._text.strip(),
            ended=self._ended,
            image=self._prefix.image,
            image_spread=self._prefix.image_spread,
            pixels=self._prefix.pixels,
            summary=self._prefix.summary,
            first_hidden=self._hidden[0],
            answer_hidden=np.mean(self._hidden, axis=0, dtype=np.float32),
            image_tokens=self._prefix.image_tokens,
            prompt_tokens=self.cells,
        )


def _prefix(parts: Sequence[Part], cells: int, following: int) -> Prefix:
    """What a trace tells of a picture, and where what follows it stands."""
    tokens = [part for part in parts if isinstance(part, ImageTokens)]
    embeddings = np.concatenate([part.embeddings for part in tokens])
    first = tokens[0]
    about = (embeddings.mean(0), embeddings.std(0), first.pixels, first.summary)
    return Prefix(cells, following, *about, len(embeddings))


def room_for(preprocessing: Preprocessing) -> int:
    """Tokens of a context that holds the largest picture, a question and an answer."""
    return max(2048, preprocessing.most_tokens + 1024)


def cells_of(part: Part) -> int:
    return len(part.embeddings) if isinstance(part, ImageTokens) else len(part)
