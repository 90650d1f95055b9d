"""The embedded vision-language model: six tasks mixed, boxes scored by IoU and words by word error rate beside answers that
are right or wrong; one run a method and seed. What differs between the methods of a seed is the method alone."""

from functools import partial
from pathlib import Path

from .runs import Run, adapt, owlet, side_by_side

METHODS = ["g2rpo", "grpo", "dr_grpo"]
# As `owlet demo` has it, but one thread a run, so that runs beside each other give the numbers of runs one by one.
OPTIONS = ["--steps", 40, "--prompts-per-step", 8, "--group-size", 8, "--lr", 1e-3, "--warmup-steps", 3,
           "--max-tokens", 80, "--max-prompt-tokens", 112, "--sessions", 1, "--sequences", 32, "--threads", 1,
           "--precise-kv", "--suffix", "Reply with <thinking> and <answer>."]
N_TRAIN, N_HELD_OUT = 480, 240


def study(root: Path, binary: Path, work: Path, seeds: list, n_jobs: int) -> list[Run]:
    """All runs, seed by seed, the methods of a seed in the order of METHODS."""
    work.mkdir(parents=True, exist_ok=True)
    model = work / "owlet-tiny-Q8_0.gguf"
    if not model.exists():
        owlet(binary, "quantize", root / "models/owlet-tiny-F16.gguf", "--type", "Q8_0", "-o", model)
    for seed in seeds:
        for split, count in (("train", N_TRAIN), ("heldout", N_HELD_OUT)):
            if not data(work, split, seed).exists():
                owlet(binary, "tasks", "--out", data(work, split, seed).parent, "--split", split, "--count", count,
                      "--seed", seed)
    return side_by_side(n_jobs, [
        partial(adapt, binary, work / f"{method}-{seed}", method, seed, "--method", method, "--model", model,
                "--mmproj", root / "models/mmproj-owlet-tiny-F16.gguf", "--data", data(work, "train", seed),
                "--eval", data(work, "heldout", seed), *OPTIONS)
        for seed in seeds for method in METHODS])


def data(work: Path, split: str, seed: int) -> Path:
    return work / f"{split}-{seed}" / "data.jsonl"
