"""Text-only practice: reading an answer off one's own notes.

A reply holds one look-up at most (which letter stands before `circle`?), too few for so small a model
to find the circuit in an hour. These rows have no image, so they are cheap, and they hold many:

- look-ups: four options, then the end of a reply for each of them in random order, no frills;
- facts: a listing as in a careful reply and several findings from it (what color, how many, which value), or
  sums and differences, with loss on each result;
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
        usable = [(r, p) for r, p in zip(rows, parts, strict=True)
                  if r["task_type"] != "spatial_grounding" and self._listing_end(p[1])]
        numeric = [p for r, p in usable if r["problem_type"] == "numerical"]
        self.notes = [[p for _, p in usable], numeric]

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
        question, careful, _, _ = self.rng.choice(self.rng.choice(self.notes))
        end = self._listing_end(careful)
        ids = self.start + question + careful
        first = len(self.start) + len(question) + end + 1
        return ids, [i >= first for i in range(len(ids))]

    def _fact(self):
        """Pieces of text, each with whether it is to be learned; piece borders are token borders."""
        rng, pieces = self.rng, []
        kind = rng.randrange(5)
        if kind == 0:  # bars
            first = rng.randrange(4)
            bars = [("ABCDEF"[first + i], rng.randint(1, 9)) for i in range(rng.randint(3, min(4, 6 - first)))]
            listing = ", ".join(f"{label} {value}" for label, value in bars)
            for label, value in rng.sample(bars, len(bars)):
                pieces += [(f" {label} is ", False), (str(value), True), (".", False)]
        elif kind == 1:  # differences of bars that are asked for by letter
            first = rng.randrange(3)
            bars = [("ABCDEF"[first + i], rng.randint(1, 9)) for i in range(4)]
            listing = ", ".join(f"{label} {value}" for label, value in bars)
            for _ in range(3):
                (a, x), (b, y) = sorted(rng.sample(bars, 2), key=lambda bar: -bar[1])
                pieces += [(f" How much more is {a} than {b}? ", False), (str(x), True), ("-", False),
                           (str(y), True), ("=", False), (str(x - y), True), (".", False)]
        elif kind == 2:  # attributes
            count = rng.randint(2, 4)
            things = list(zip(rng.sample(WORDS[1], count), rng.sample(WORDS[2], count), strict=True))
            listing = ", ".join(" ".join(thing) for thing in things)
            for colour, shape in rng.sample(things, count):
                pieces += [(f" {shape} is", False), (f" {colour}", True), (".", False)]
                pieces += [(f" {colour} is", False), (f" {shape}", True), (".", False)]
        elif kind == 3:  # counts
            colours, shapes = rng.sample(WORDS[1], 2), rng.sample(WORDS[2], 2)
            things = [(rng.choice(colours), rng.choice(shapes)) for _ in range(rng.randint(2, 5))]
            listing = ", ".join(" ".join(thing) for thing in things)
            for word in rng.sample(colours + shapes, 4):
                number = sum(word in thing for thing in things)
                # The word stands behind its number, as in the replies, so it is asked for first.
                pieces += [(f" How many {word} shapes? ", False), (str(number), True), (f" {word}.", False)]
        else:
            listing = ""
            for _ in range(8):
                a, b = rng.randint(1, 9), rng.randint(1, 9)
                if rng.random() < 0.6:
                    pieces += [(f" {a}+{b}=", False), (str(a + b), True), (".", False)]
                else:
                    a, b = max(a, b), min(a, b)
                    pieces += [(f" {a}-{b}=", False), (str(a - b), True), (".", False)]
        ids, wanted = list(self.start), [False] * len(self.start)
        for text, learn in [(f"<thinking>I see {listing}.", False), *pieces]:
            tokens = self.tokenizer.encode(text, add_special_tokens=False)
            ids += tokens
            wanted += [learn] * len(tokens)
        return ids, wanted

    def batch(self, lookups: int, notes: int, facts: int):
        """(ids, positions, mask, labels) for the look-ups, the notes and the facts of one step."""
        for draw, count in ((self._lookup, lookups), (self._note, notes), (self._fact, facts)):
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
