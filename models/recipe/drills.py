"""Text-only practice: reading an answer off one's own notes.

A reply holds one look-up at most (which letter stands before `circle`?), too few for so small a model
to find the circuit in an hour. These rows have no image, so they are cheap, and they hold many:

- look-ups: four options, then the end of a reply for each of them in random order, no frills;
- notes: prompt and careful reply of a training row, with loss only behind the listing, where everything
  follows from the text.
"""

import random

import torch

WORDS = [
    ["left", "right", "above", "below"],
    ["red", "green", "blue", "yellow", "purple", "black"],
    ["circle", "square", "triangle", "star", "cross"],
]


class Drills:
    def __init__(self, tokenizer, rows, parts, seed: int):
        self.rng = random.Random(seed)
        self.tokenizer = tokenizer
        self.start = tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)
        token = tokenizer.convert_tokens_to_ids
        self.letters = {token(">" + letter) for letter in "ABCD"}
        self.pad = tokenizer.pad_token_id
        # Boxes do not follow from the listing. The listing ends with the first full stop.
        self.stop = token(".")
        self.notes = [p for r, p in zip(rows, parts, strict=True)
                      if r["task_type"] != "spatial_grounding" and self._listing_end(p[1])]

    def _listing_end(self, careful):
        ends = [i for i, t in enumerate(careful) if t == self.stop or self.tokenizer.convert_ids_to_tokens(t) == ".</"]
        return ends[0] if ends else None

    def _lookup(self):
        pool = self.rng.choice(WORDS)
        words = sorted(self.rng.sample(pool, 4), key=pool.index)
        options = "\n".join(f"{letter}. {word}" for letter, word in zip("ABCD", words, strict=True))
        text = f"Where?\n{options}\n<thinking>I see."
        for index in self.rng.sample(range(4), 4):
            text += f" {words[index]}.</thinking><answer>{'ABCD'[index]}</answer>"
        ids = self.start + self.tokenizer.encode(text, add_special_tokens=False)
        return ids, [token in self.letters for token in ids]

    def _note(self):
        question, careful, _, _ = self.rng.choice(self.notes)
        end = self._listing_end(careful)
        ids = self.start + question + careful
        first = len(self.start) + len(question) + end + 1
        return ids, [i >= first for i in range(len(ids))]

    def batch(self, lookups: int, notes: int):
        """(ids, positions, mask, labels) for the look-ups and for the notes of one step."""
        for draw, count in ((self._lookup, lookups), (self._note, notes)):
            if count:
                yield self._pack([draw() for _ in range(count)])

    def _pack(self, made):
        count, width = len(made), max(len(ids) for ids, _ in made)
        ids = torch.full((count, width), self.pad)
        labels = torch.full((count, width), -100)
        for i, (row, wanted) in enumerate(made):
            ids[i, :len(row)] = torch.tensor(row)
            for at in range(1, len(row)):
                if wanted[at]:
                    labels[i, at - 1] = row[at]
        positions = torch.arange(width).expand(3, count, width)
        mask = torch.ones(width, width, dtype=torch.bool).tril().expand(count, 1, width, width)
        return ids, positions, mask, labels
