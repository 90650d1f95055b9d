"""Accuracy per task on held-out pictures: free, forced careful, forced hasty, and sampled.

    python evaluate.py --model HF_DIR --data HELDOUT_DIR [--per-task 300] [--markdown]

Greedy decoding in float32 from the float16 weights. Boxes score by IoU, OCR by 1 - word error rate,
the rest by right or wrong: the accuracy part of the reference's reward. The interval is the normal
95 % one over pictures. "Sampled" is the mean of one reply per picture at temperature 1.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from common import TASKS, accuracy, prompt_text, read_images, read_rows
from model import generate

MODES = [
    ("greedy", "", 0.0), ("careful", "<thinking>I", 0.0), ("hasty", "<thinking>quick", 0.0), ("sampled", "", 1.0),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--per-task", type=int, default=300)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="replies to print per task and mode")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = Qwen3VLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    rows = read_rows(args.data)
    images = read_images(args.data, rows)
    generator = torch.Generator().manual_seed(args.seed)
    print("| task | " + " | ".join(mode for mode, _, _ in MODES) + " | careful when free | tokens careful / hasty |")
    print("|---" * (len(MODES) + 3) + "|")
    for task in TASKS:
        picked = [i for i, row in enumerate(rows) if row["task_type"] == task][:args.per_task]
        cells, extra, kinds = [], {}, {}
        for mode, forced, temperature in MODES:
            scores, careful, lengths = [], 0, []
            for start in range(0, len(picked), args.batch):
                chunk = picked[start:start + args.batch]
                pixels = torch.from_numpy(np.ascontiguousarray(images[chunk]))
                prompts = [prompt_text(rows[i]) for i in chunk]
                replies = generate(model, tokenizer, prompts, pixels, forced,
                                   temperature=temperature, generator=generator)
                for i, reply in zip(chunk, replies, strict=True):
                    scores.append(accuracy(rows[i], reply))
                    careful += reply.startswith("<thinking>I see")
                    lengths.append(len(tokenizer.encode(reply)) + 1)
                    kinds.setdefault((rows[i]["kind"], mode), []).append(scores[-1])
                    if len(scores) <= args.show:
                        print(f"<!-- {prompt_text(rows[i])!r} {rows[i]['answer']} {mode}: {reply} -->")
            interval = 1.96 * np.std(scores) / len(scores) ** 0.5
            cells.append(f"{100 * np.mean(scores):.1f} ± {100 * interval:.1f}")
            extra[mode] = (careful / len(picked), np.mean(lengths))
        print(f"| `{task}` ({len(picked)}) | " + " | ".join(cells)
              + f" | greedy {100 * extra['greedy'][0]:.0f} %, sampled {100 * extra['sampled'][0]:.0f} %"
              + f" | {extra['careful'][1]:.0f} / {extra['hasty'][1]:.0f} |", flush=True)
        names = sorted({kind for kind, _ in kinds})
        if len(names) > 1:
            for kind in names:
                means = [f"{mode} {100 * np.mean(kinds[kind, mode]):.0f}" for mode, _, _ in MODES]
                print(f"<!-- {kind} ({len(kinds[kind, 'greedy'])}): {', '.join(means)} -->")


if __name__ == "__main__":
    main()
