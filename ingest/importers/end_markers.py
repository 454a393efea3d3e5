"""End markers: a literal `<|endoftext|>`, `</s>` or `###` that a file has left behind its answers.

Trained on, such a marker is text that the model writes, and features see it in every answer. It is
taken off on request (`--strip-end TEXT`), and reported where nearly all answers end in one.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field, replace

from ...schemas.instruction import Instruction

MARKER = re.compile(
    r"(?:<\|[^|<>\s]{1,40}\|>"
    r"|<[\uff5c\u2581][^<>\s]{1,40}>"
    r"|</?s>"
    r"|<[/_]?(?:eos|eot|eod|eom|eop|end|stop|done|pad|im_end|endof\w+|end_of_\w+)(?:_\w+)?>"
    r"|\[/?(?:eos|eot|eod|end|done|stop|sep|pad|inst|endoftext|end_of_\w+)\]"
    r"|(?:###+|===+|\*\*\*+|---+|~~~+|@@@+|%%%+)(?:[ ]?(?:end|stop|eos)\b[ ]?[#=*~@%-]*)?"
    r"|(?-i:\bEND(?:OFTEXT| OF (?:TEXT|ANSWER|RESPONSE))?|<<?/?[A-Z_]{2,24}>>?)"
    r")\s*\Z",
    re.IGNORECASE,
)
CERTAIN = re.compile(
    r"(?:\s*(?:<\|(?:endoftext|im_end|eot_id|end_of_text|end|eos)\|>|</s>|<eos>|<end_of_turn>"
    r"|\[EOS\]))+\s*",
    re.IGNORECASE,
)
"""What a tokenizer's end marker looks like; an answer of nothing else is empty."""

NEARLY_ALL = 0.9
LEAST_ANSWERS = 3


def marker_of(text: str) -> str | None:
    """The end marker that a text ends in, without white space around it; None if there is none."""
    match = MARKER.search(text, max(0, len(text.rstrip()) - 60))
    return match.group().strip() if match else None


def without_end(instruction: Instruction, marker: str) -> Instruction:
    """The conversation without a marker, repeated ones too, at the end of its answers.

    White space around it goes with it; an answer that does not end in it stays as it is.
    """
    messages = tuple(
        replace(message, content=stripped_end(message.content, marker))
        if message.role == "assistant" and message.content.rstrip().endswith(marker)
        else message
        for message in instruction.messages
    )
    return replace(instruction, messages=messages)


def stripped_end(text: str, marker: str) -> str:
    """The text without the marker at its end."""
    while (text := text.rstrip()).endswith(marker):
        text = text[: -len(marker)]
    return text


def is_nothing_else(text: str) -> bool:
    """Whether a text is an end marker of a tokenizer, and nothing else."""
    return len(text) < 80 and CERTAIN.fullmatch(text) is not None


@dataclass
class EndMarkers:
    """How many of the answers that were read end in which marker.

    Attributes:
        stripped: the marker that is taken off.
        answers: how many were read.
        taken: from how many of them the marker was taken off.
        counts: marker -> answers that end in it, after that.
    """

    stripped: str | None = None
    answers: int = 0
    taken: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def admit(self, instruction: Instruction) -> Instruction:
        """Count the last answer of a conversation, and take off the marker that is not wanted."""
        read = without_end(instruction, self.stripped) if self.stripped else instruction
        answers = [turn for turn in instruction.messages if turn.role == "assistant"]
        if not answers or not answers[-1].content:
            return read
        self.answers += 1
        if read is not instruction and read.messages != instruction.messages:
            self.taken += 1
        elif marker := marker_of(answers[-1].content):
            self.counts[marker] += 1
        return read

    def sentences(self, of: str = "") -> list[str]:
        """What to say: that a marker was taken off, or that nearly all answers end in one.

        Args:
            of: which answers these are, such as "first ".
        """
        said = []
        if self.stripped and self.answers:
            said.append(
                f"{self.stripped!r} was taken off {self._share(self.taken, of)}"
                if self.taken
                else f"--strip-end {self.stripped!r}: none of the {of}{self.answers:,} answers "
                "ends in it"
            )
        if self.answers >= LEAST_ANSWERS and self.counts:
            marker, count = self.counts.most_common(1)[0]
            if count >= NEARLY_ALL * self.answers:
                said.append(
                    f"{self._share(count, of)} end in {marker!r}, which would be trained on; "
                    f"--strip-end {shlex.quote(marker)} takes it off"
                )
        return said

    def _share(self, count: int, of: str) -> str:
        return f"{count:,} of the {of}{self.answers:,} answers ({count / self.answers:.1%})"
