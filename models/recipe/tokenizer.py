"""The tokenizer: byte-level BPE trained on the task corpus, with Qwen's special tokens.

    python tokenizer.py --data TRAIN_DIR --out DIR

The pre-tokenizer is Qwen2's, which every runtime knows by name (`qwen2`); in it each digit is a
token of its own. The chat template is chatml as Qwen writes it, with images.
"""

import argparse
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The added tokens of Qwen3-VL, in their order; the ones after <|video_pad|> are not special there.
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def corpus(data: Path, limit: int):
    """Every text that the model will read or write, from the training split."""
    from common import DESCRIBE, prompt_text

    with open(data / "data.jsonl", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number == limit:
                return
            row = json.loads(line)
            yield prompt_text(row)
            yield from row["responses"].values()
            yield row["description"]
            yield DESCRIBE
            yield "user\n"
            yield "assistant\n"
            yield "system\n"


def train(data: Path, vocabulary: int, limit: int) -> Qwen2TokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL),
        min_frequency=20,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(data, limit), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    result = Qwen2TokenizerFast(
        vocab=None,
        merges=None,
        tokenizer_object=_qwen2(model["vocab"], merges),
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        model_max_length=2048,
    )
    result.chat_template = CHAT_TEMPLATE
    return result


def _qwen2(vocab: dict, merges: list) -> Tokenizer:
    """A tokenizer with the normalizer, pre-tokenizer and decoder that Qwen's files have."""
    from tokenizers import AddedToken, decoders, normalizers, processors

    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=False, fuse_unk=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=1024, help="upper limit")
    parser.add_argument("--limit", type=int, default=12000, help="rows of the corpus")
    args = parser.parse_args()
    tokenizer = train(args.data, args.vocabulary, args.limit)
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} tokens in {args.out}")


if __name__ == "__main__":
    main()
