"""From a conversation to token ids and masks.

Every text is tokenised separately from the template, without special tokens: a text that holds
`<|endoftext|>` stays text. Template text is tokenised with special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...schemas.instruction import Instruction
from ...schemas.reasoning import without_reasoning
from .chat_template import ChatTemplate, RowRefusedError
from .forms import (
    Form,
    Reading,
    dialect_of,
    form_of,
    hidden_reasoning,
    messages_of,
    readings_of,
)
from .token_roles import Layout, Mask, PieceTokens, build_layout, place_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer


ReasoningMode = Literal["template", "as-response", "drop"]
REASONING_MODES: tuple[ReasoningMode, ...] = get_args(ReasoningMode)
"""What becomes of reasoning: what the template makes of it; text of its answer even where the
template leaves it out; nothing."""

LAYOUTS_KEPT = 1024

NOTHING = "nothing to encode: the conversation renders to no token"


@dataclass(frozen=True)
class Encoded:
    """One row as tokens.

    Attributes:
        ids: (T,) int32.
        response: (T,) bool, texts and end-of-turn tokens of all answers.
        content: (T,) bool, neither special nor template tokens.
        header: (T,) bool, template tokens that open an answer.
        has_bos: whether ids[0] is the beginning-of-sequence token.
        truncated: whether tokens were left out.
        id: of the instruction.
    """

    ids: NDArray[np.int32]
    response: Mask
    content: Mask
    header: Mask
    has_bos: bool
    truncated: bool
    id: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def response_tokens(self) -> int:
        return int(self.response.sum())

    @property
    def prompt_tokens(self) -> int:
        return len(self.ids) - self.response_tokens


class Encoder:
    """Encodes conversations with the template and the tokenizer of a backbone.

    `tokenizer` is a `tokenizers.Tokenizer`; it is copied, so its settings stay as they are.
    `reasoning` is one of `REASONING_MODES`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        max_length: int,
        bos: int | None,
        reasoning: ReasoningMode = "template",
    ) -> None:
        from tokenizers import Tokenizer

        self._template_tokens = Tokenizer.from_str(tokenizer.to_str())
        self._content_tokens = Tokenizer.from_str(tokenizer.to_str())
        for copy, specials_are_text in (
            (self._template_tokens, False),
            (self._content_tokens, True),
        ):
            copy.no_padding()
            copy.no_truncation()
            copy.encode_special_tokens = specials_are_text
        added = tokenizer.get_added_tokens_decoder()
        special = {id: token.content for id, token in added.items() if token.special}
        self.special_ids = frozenset(special)
        longest_first = sorted(special.values(), key=len, reverse=True)
        self._special_text = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._glue = self._glue_ids()
        self._layout = lru_cache(LAYOUTS_KEPT)(self._build)
        self._template, self._bos, self.max_length = template, bos, max_length
        self._dialect, self.reasoning = dialect_of(template), reasoning

    def encode(self, instruction: Instruction) -> Encoded:
        """One conversation as tokens, at most `max_length` of them.

        Raises:
            RowRefusedError: the template cannot render it, changes its text, or rewrites history.
        """
        (encoded,) = self.encode_all([instruction])
        if isinstance(encoded, RowRefusedError):
            raise encoded
        return encoded

    def encode_all(self, instructions: Sequence[Instruction]) -> list[Encoded | RowRefusedError]:
        """Many conversations as tokens, in order; an error in place of one that is refused."""
        rendered: list[tuple[Layout, list[str]] | RowRefusedError] = []
        for instruction in instructions:
            try:
                rendered.append(self._render(instruction))
            except RowRefusedError as error:
                rendered.append(error)
        texts = [text for row in rendered if isinstance(row, tuple) for text in row[1]]
        tokens = iter(self._encode_contents(texts))
        encoded: list[Encoded | RowRefusedError] = []
        for instruction, row in zip(instructions, rendered, strict=True):
            if isinstance(row, RowRefusedError):
                encoded.append(row)
                continue
            layout, contents = row
            tokenised = self._assemble(instruction.id, layout, [next(tokens) for _ in contents])
            encoded.append(tokenised if len(tokenised) else RowRefusedError(NOTHING))
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return self._template_tokens.decode(list(ids), skip_special_tokens=True)

    def _render(self, instruction: Instruction) -> tuple[Layout, list[str]]:
        """The layout of a conversation, and the text in each of its slots."""
        if self.reasoning == "drop":
            answered = any(message.answers for message in instruction.messages)
            instruction = without_reasoning(instruction)
            if answered and not any(message.answers for message in instruction.messages):
                raise RowRefusedError("the answer is reasoning alone, and reasoning is dropped")
        readings = readings_of(instruction, self._dialect)
        for reading in readings[:-1]:
            with suppress(RowRefusedError):  # the last one says why
                return self._read(instruction, reading)
        if self.reasoning == "as-response":
            return self._read_with_reasoning(instruction, readings[-1])
        return self._read(instruction, readings[-1])

    def _read(self, instruction: Instruction, reading: Reading) -> tuple[Layout, list[str]]:
        form, texts = form_of(instruction, reading)
        layout = self._layout(form)
        rendered = self._template.render(*messages_of(form, texts, self._dialect, layout.calls))
        return layout, place_texts(layout, texts, rendered)

    def _read_with_reasoning(
        self, instruction: Instruction, reading: Reading
    ) -> tuple[Layout, list[str]]:
        """The same, with reasoning as text of the answer wherever the template leaves it out."""
        turns = form_of(instruction, reading)[0][0]
        left_out = {number for number, turn in enumerate(turns) if turn.thinks}
        if not left_out:
            return self._read(instruction, reading)
        with suppress(RowRefusedError):
            layout, contents = self._read(instruction, reading)
            left_out -= {slot.text // 2 for slot in layout.slots if slot.kind == "reasoning"}
            if not left_out:
                return layout, contents
        instruction, around = hidden_reasoning(instruction, left_out)
        layout, contents = self._read(instruction, reading)
        for place, (slot, text) in enumerate(zip(layout.slots, contents, strict=True)):
            if slot.kind == "content" and slot.text // 2 in around:
                before, after = around[slot.text // 2]
                contents[place] = before + text + after
        return layout, contents

    def _build(self, form: Form) -> Layout:
        return build_layout(
            form,
            self._template,
            self._dialect,
            self._piece_tokens,
            self.special_ids,
            self._special_text,
        )

    def _piece_tokens(self, text: str, opens: bool) -> PieceTokens:
        glue = [] if opens else self._glue
        shift = "\n" if glue else ""
        encoding = self._template_tokens.encode(shift + text, add_special_tokens=False)
        cut = len(glue)
        spans = [(start - len(shift), end - len(shift)) for start, end in encoding.offsets[cut:]]
        return PieceTokens(encoding.ids[cut:], spans)

    def _encode_contents(self, texts: Sequence[str]) -> list[list[int]]:
        shift, cut = ("\n", len(self._glue)) if self._glue else ("", 0)
        batch = self._content_tokens.encode_batch_fast(
            [shift + text for text in texts], add_special_tokens=False
        )
        return [each.ids[cut:] for each in batch]

    def _glue_ids(self) -> list[int]:
        """Tokens of a line break where the tokenizer would add a space before every text.

        SentencePiece-like tokenizers put a space before the first word they see. A text in the
        middle of a rendering must not get one: it is tokenised behind a line break, whose tokens
        are cut off again. Empty for tokenizers that add nothing.
        """
        first = self._content_tokens.encode("x", add_special_tokens=False)
        if not first.tokens or not first.tokens[0].startswith("\u2581"):
            return []
        return self._content_tokens.encode("\n", add_special_tokens=False).ids

    def _assemble(self, id: str, layout: Layout, contents: Sequence[Sequence[int]]) -> Encoded:
        head = layout.pieces[0]
        ids, response, content, header = [head.ids], [head.response], [head.content], [head.header]
        for slot, tokens, piece in zip(layout.slots, contents, layout.pieces[1:], strict=True):
            size = len(tokens)
            ids += [np.asarray(tokens, dtype=np.int32), piece.ids]
            response += [np.full(size, slot.response), piece.response]
            content += [np.ones(size, dtype=bool), piece.content]
            header += [np.zeros(size, dtype=bool), piece.header]
        joined = np.concatenate(ids)
        answers = np.concatenate(response)
        has_bos = self._bos is not None and len(joined) > 0 and joined[0] == self._bos
        keep = kept_positions(answers, self.max_length, bool(has_bos))
        return Encoded(
            joined[keep],
            answers[keep],
            np.concatenate(content)[keep],
            np.concatenate(header)[keep],
            bool(has_bos),
            len(joined) > self.max_length,
            id,
        )


def kept_positions(response: Mask, max_length: int, has_bos: bool) -> slice | NDArray[np.int64]:
    """The positions of a row that truncation keeps.

    The left of the prompt is cut first; the beginning-of-sequence token stays. What follows the
    first response token is cut only when it does not fit by itself, and then at its right end.
    """
    total = len(response)
    if total <= max_length:
        return slice(None)
    room = max_length - has_bos
    first = int(response.argmax()) if response.any() else total
    start = first if total - first > room else total - room
    kept = np.arange(start, start + room)
    return np.concatenate([[0], kept]) if has_bos else kept


def response_alone(row: Encoded) -> Encoded:
    """A row without its prompts: beginning of sequence, headers and texts of all answers."""
    keep = row.response | row.header
    if row.has_bos:
        keep = keep.copy()
        keep[0] = True
    return Encoded(
        row.ids[keep],
        row.response[keep],
        row.content[keep],
        row.header[keep],
        row.has_bos,
        row.truncated,
        row.id,
    )
