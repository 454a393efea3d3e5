"""Train the proxy's tokenizer: a byte-level BPE with one token per digit and a chat template.

    python proxies/tokenizer.py --out proxies/builtin [--data PATH] [--vocab 6144]

Lossless on any UTF-8 text: every byte is a token, nothing is normalised, no space is added.
Trained on the training split only. The folder loads with `AutoTokenizer.from_pretrained`.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from corpus import DATA, read_rows
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, END, PAD = "<|endoftext|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL_TOKENS = [BOS, *(f"<|{role}|>" for role in ROLES), END, PAD]
VOCABULARY = 6144
CONTEXT_TOKENS = 2048

# Words with one leading character, single digits, runs of punctuation, white space. Marks belong
# to words: Devanagari, Tamil, Telugu and Thai vowels are marks and must not be cut off.
PIECES = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Every message is rendered from itself alone, so rendering the first messages of a conversation
# gives a prefix of rendering all of it, and no content is ever trimmed or dropped.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}
{{- raise_exception("unknown role '" ~ message['role'] ~ "'; use system, user, assistant or tool")\
 -}}
{%- endif -%}
{{- '<|' ~ message['role'] ~ '|>' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- elif message['content'] -%}
{{- raise_exception('content must be a string') -}}
{%- endif -%}
{%- if message['tool_calls'] is string -%}
{{- message['tool_calls'] -}}
{%- elif message['tool_calls'] -%}
{{- message['tool_calls'] | tojson -}}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn `vocabulary` tokens (specials and the 256 bytes counted in) from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (chat template inside) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_TOKENS,
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [f"<|{role}|>" for role in ROLES],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`, set so that `<|end|>` written in a content stays text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_conversations(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[tuple[str, str]]]
) -> list[list[int]]:
    """Token ids of each conversation as the chat template renders it, one list per item."""
    ids = tokenizer.get_vocab()
    contents = [content for messages in conversations for _, content in messages]
    encoded = iter(tokenizer.encode_batch_fast(contents, add_special_tokens=False))
    rendered: list[list[int]] = []
    for messages in conversations:
        tokens = [ids[BOS]]
        for role, _ in messages:
            tokens += [ids[f"<|{role}|>"], *next(encoded).ids, ids[END]]
        rendered.append(tokens)
    return rendered


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    options = parser.parse_args()
    contents = (
        content
        for row in read_rows(options.data)
        if not row.held_out
        for _, content in row.messages
    )
    save_tokenizer(train_tokenizer(contents, options.vocab), options.out)


if __name__ == "__main__":
    main()
