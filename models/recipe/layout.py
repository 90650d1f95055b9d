"""How one picture's texts are laid out as one training row.

    <|im_start|>user\n<|vision_start|> image <|vision_end|>      prefix
      question<|im_end|>\n<|im_start|>assistant\n                question
        careful reply<|im_end|>                                  careful
        hasty reply<|im_end|>                                    hasty
      describe ...<|im_start|>assistant\n everything<|im_end|>   describe

The indented parts are branches: each sees its ancestors and itself, not its siblings, and its
positions go on from its parent. So the image and the question are computed once for all replies,
and the loss is that of separate conversations.
"""

import torch

from common import DESCRIBE, prompt_text
from model import IMAGE_TOKENS, image_positions

PREFIX, QUESTION, CAREFUL, HASTY, LISTING, PAD = range(6)
_SEES = torch.tensor([
    # prefix question careful hasty listing pad
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 0],
    [1, 1, 0, 1, 0, 0],
    [1, 0, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 1],
], dtype=torch.bool)


def prefix_ids(tokenizer) -> list:
    text = "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>"
    return tokenizer.encode(text, add_special_tokens=False)


def question_ids(tokenizer, text: str) -> list:
    return tokenizer.encode(f"{text}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)


def encode(tokenizer, rows: list) -> list:
    """The token ids of every part of every row: (question, careful, hasty, description)."""
    def batch(texts):
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    return list(zip(
        batch([f"{prompt_text(r)}<|im_end|>\n<|im_start|>assistant\n" for r in rows]),
        batch([r["responses"]["careful"] + "<|im_end|>" for r in rows]),
        batch([r["responses"]["hasty"] + "<|im_end|>" for r in rows]),
        batch([r["description"] + "<|im_end|>" for r in rows]),
        strict=True,
    ))


class Layout:
    """Builds batches; the constant parts are tokenized once."""

    def __init__(self, tokenizer, hasty_share: float, answer_weight: float = 1.0):
        self.answer_weight = answer_weight
        self.answer = tokenizer.convert_tokens_to_ids("answer")
        self.prefix = prefix_ids(tokenizer)
        self.describe = question_ids(tokenizer, DESCRIBE)
        self.pad = tokenizer.pad_token_id
        self.image_at = self.prefix.index(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        self.hasty_share = hasty_share

    def length(self, parts, listing: bool) -> int:
        question, careful, hasty, description = parts
        length = len(self.prefix) + len(question) + len(careful) + len(hasty)
        return length + (len(self.describe) + len(description)) * listing

    def batch(self, parts: list, listing: bool) -> dict:
        """ids, positions, mask, labels (-100 where there is no loss), weights and segment of every token."""
        width = max(self.length(p, listing) for p in parts)
        count = len(parts)
        ids = torch.full((count, width), self.pad)
        segments = torch.full((count, width), PAD)
        labels = torch.full((count, width), -100)
        weights = torch.ones(count, width)
        positions = torch.zeros(3, count, width, dtype=torch.long)
        after_image = self.image_at + 4
        start = after_image + len(self.prefix) - self.image_at - IMAGE_TOKENS
        for i, (question, careful, hasty, description) in enumerate(parts):
            branches = [
                (QUESTION, question, start), (CAREFUL, careful, start + len(question)),
                (HASTY, hasty, start + len(question)),
            ]
            if listing:
                branches += [(LISTING, self.describe + description, start)]
            at = len(self.prefix)
            ids[i, :at] = torch.tensor(self.prefix)
            segments[i, :at] = PREFIX
            positions[:, i, :at] = torch.arange(at)
            positions[:, i, self.image_at:self.image_at + IMAGE_TOKENS] = image_positions(self.image_at)
            positions[:, i, self.image_at + IMAGE_TOKENS:at] = torch.arange(after_image, start)
            for segment, tokens, position in branches:
                end = at + len(tokens)
                ids[i, at:end] = torch.tensor(tokens)
                segments[i, at:end] = segment
                positions[:, i, at:end] = torch.arange(position, position + len(tokens))
                # The token before the first one predicts it. The hasty reply's first token is the
                # careful reply's first token, and only the latter stands right behind the question.
                first = {QUESTION: end, CAREFUL: at, HASTY: at + 1, LISTING: at + len(self.describe)}[segment]
                labels[i, first - 1:end - 1] = ids[i, first:end]
                if segment in (CAREFUL, HASTY):
                    # The second token (`>I` or `>quick`) decides the style: the share of each style
                    # in the data is a weight on that one token.
                    share = self.hasty_share if segment == HASTY else 1 - self.hasty_share
                    weights[i, at] = 2 * share
                    # A letter or a number is one token among thirty, and the whole reward.
                    opened, closing = tokens.index(self.answer) + 1, 4
                    if len(tokens) - opened - closing <= 4:
                        weights[i, at + opened - 1:end - closing - 1] = self.answer_weight
                at = end
        mask = _SEES[segments[:, :, None], segments[:, None, :]]
        mask &= torch.ones(width, width, dtype=torch.bool).tril()
        return dict(ids=ids, positions=positions, mask=mask[:, None], labels=labels,
                    weights=weights, segments=segments)
