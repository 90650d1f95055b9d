"""Trains the tiny model from scratch on CPU.

    python train.py --data TRAIN_DIR --heldout HELDOUT_DIR --tokenizer DIR --out HF_DIR

Two phases. First the vision tower alone learns, from dense marks through a throw-away head, what is
in each patch; this takes minutes and makes the second phase several times faster. Then everything
learns together from replies and descriptions. A checkpoint is written every few minutes; run the same
command again to resume.
"""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from common import TASKS, accuracy, mark_targets, prompt_text, read_images, read_rows
from drills import Drills
from layout import CAREFUL, HASTY, Layout, encode
from model import generate, new_model, read, see
from save import save

N_CLASSES = 1 + 36 + 36  # nothing, coloured shapes and bars, characters


class Probe(torch.nn.Module):
    """Class and box of every patch from the image token that holds it. Dropped after training."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(256, 4 * (N_CLASSES + 4))

    def forward(self, tokens, classes, boxes):
        out = self.linear(tokens).view(len(tokens), -1, N_CLASSES + 4)
        loss = F.cross_entropy(out[..., :N_CLASSES].flatten(0, 1), classes.flatten(), reduction="none")
        loss = loss.view_as(classes)
        something = classes > 0
        # Nearly all patches are empty: each side gets its own mean.
        class_loss = loss[something].mean() + 0.5 * loss[~something].mean()
        right = (out[..., :N_CLASSES].argmax(-1) == classes)[something].float().mean()
        shape = something & (classes <= 36)
        box_loss = (out[..., N_CLASSES:][shape] - boxes[shape]).abs().sum() / (4 * shape.sum()).clamp(min=1)
        return class_loss + 4 * box_loss, right.item(), box_loss.item()


def learning_rate(step: int, done: float, peak: float, warmup: int = 60) -> float:
    """Linear warm-up over steps, then a cosine over the share of the work that is done."""
    cosine = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return peak * min(1.0, (step + 1) / warmup) * cosine


def optimizer_for(groups, weight_decay: float):
    """AdamW over (modules, scale of the learning rate); matrices decay, the rest does not."""
    settings, seen = [], set()
    for modules, scale in groups:
        fresh = {id(p): p for m in modules for p in m.parameters() if id(p) not in seen}
        seen.update(fresh)
        for chosen, decay in ((True, weight_decay), (False, 0.0)):
            settings.append(dict(params=[p for p in fresh.values() if (p.ndim >= 2) == chosen],
                                 weight_decay=decay, scale=scale))
    return torch.optim.AdamW(settings, lr=1e-3, betas=(0.9, 0.98))


def update(optimizer, rate: float):
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def batches(parts, size: int, pieces: int, listing_share: float, seed: int, layout: Layout):
    """Endless (list of index lists, listing). A step is a random batch, cut into pieces of similar
    length: little padding, and yet every step holds all tasks."""
    rng = random.Random(seed)
    while True:
        order = list(range(len(parts)))
        rng.shuffle(order)
        for start in range(0, len(order) - size + 1, size):
            listing = rng.random() < listing_share
            group = sorted(order[start:start + size], key=lambda i: layout.length(parts[i], listing))
            width = -(-size // pieces)
            yield [group[i:i + width] for i in range(0, size, width)], listing


def quick_score(model, tokenizer, rows, images, per_task: int) -> str:
    """Accuracy per task in each style on a few held-out pictures."""
    model.eval()
    picked = [i for task in TASKS for i in [j for j, r in enumerate(rows) if r["task_type"] == task][:per_task]]
    pixels = torch.from_numpy(np.ascontiguousarray(images[picked]))
    prompts = [prompt_text(rows[i]) for i in picked]
    report = []
    for style, forced in (("greedy", ""), ("careful", "<thinking>I")):
        replies = generate(model, tokenizer, prompts, pixels, forced, max_tokens=56)
        scores = [accuracy(rows[i], reply) for i, reply in zip(picked, replies)]
        means = [sum(scores[k * per_task:(k + 1) * per_task]) / per_task for k in range(len(TASKS))]
        report.append(f"{style} " + " ".join(f"{m:.2f}" for m in means))
    model.train()
    return "  |  ".join(report)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2500, help="steps of the second phase")
    parser.add_argument("--minutes", type=float, help="end the second phase by time instead of steps")
    parser.add_argument("--batch", type=int, default=24, help="pictures a step in the second phase")
    parser.add_argument("--pieces", type=int, default=3, help="micro-batches a step")
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--probe-weight", type=float, default=0.3)
    parser.add_argument("--hasty-share", type=float, default=0.58)
    parser.add_argument("--answer-weight", type=float, default=3.0, help="loss weight of short answers")
    parser.add_argument("--listing-share", type=float, default=0.25, help="steps that also describe")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--freeze-vision", type=float, default=0.7, help="share of the second phase after which the tower rests")
    parser.add_argument("--lookups", type=int, default=8, help="look-up drills a step")
    parser.add_argument("--notes", type=int, default=20, help="note drills a step")
    parser.add_argument("--facts", type=int, default=16, help="fact drills a step")
    parser.add_argument("--drill-weight", type=float, default=0.5)
    parser.add_argument("--score", type=int, default=12, help="held-out pictures per task scored at each checkpoint")
    parser.add_argument("--minutes-between-checkpoints", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    rows, images = read_rows(args.data), read_images(args.data, read_rows(args.data))
    images = np.array(images)
    test_rows = read_rows(args.heldout)
    test_images = read_images(args.heldout, test_rows)
    parts = encode(tokenizer, rows)
    classes, boxes = mark_targets(rows)
    tasks = np.array([TASKS.index(r["task_type"]) for r in rows])
    layout = Layout(tokenizer, args.hasty_share, args.answer_weight)
    model, probe = new_model(tokenizer, args.seed), Probe()
    visual = model.model.visual
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(rows)} pictures", flush=True)

    state = {"phase": "vision", "step": 0, "seconds": 0.0}
    optimizers = {
        "vision": optimizer_for([([visual, probe], 1.0)], 0.02),
        # The tower can see already: a high rate would shake what it knows.
        "all": optimizer_for([([visual, probe], 0.3), ([model], 1.0)], 0.02),
    }
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state.pop("model"))
        probe.load_state_dict(state.pop("probe"))
        optimizers[state["phase"]].load_state_dict(state.pop("optimizer"))
        print(f"resumed at {state}", flush=True)

    def checkpoint(phase: str, step: int):
        partial = args.checkpoint.with_suffix(".partial")
        torch.save(dict(phase=phase, step=step, seconds=elapsed(), model=model.state_dict(), probe=probe.state_dict(),
                        optimizer=optimizers[phase].state_dict()), partial)
        partial.rename(args.checkpoint)
        if phase == "all":
            save(model, tokenizer, args.out)

    def look(indices):
        index = np.array(indices)
        return (torch.from_numpy(images[index]), torch.from_numpy(classes[index]).long(),
                torch.from_numpy(boxes[index]).float())

    started = saved = time.time()
    elapsed = lambda: state.get("seconds", 0.0) + time.time() - started
    model.train()
    if state["phase"] == "vision":
        order = np.random.default_rng(args.seed)
        for step in range(state["step"], args.vision_steps):
            pixels, cls, box = look(order.integers(0, len(rows), 128))
            tokens, deep = see(model, pixels)
            loss, right, off = probe(tokens + sum(deep), cls, box)
            loss.backward()
            update(optimizers["vision"], learning_rate(step, step / args.vision_steps / 2, args.rate))
            if step % 20 == 0:
                per_step = (time.time() - started) / (step - state["step"] + 1)
                print(f"vision {step} loss {loss.item():.3f} class {right:.3f} box {off:.4f} "
                      f"{per_step:.2f} s/step", flush=True)
            if time.time() - saved > 60 * args.minutes_between_checkpoints:
                checkpoint("vision", step + 1)
                saved = time.time()
        state = {"phase": "all", "step": 0, "seconds": 0.0}

    drills = Drills(tokenizer, rows, parts, args.seed + state["step"])
    drilled, drill_sum = np.zeros(3), 0.0
    stream = batches(parts, args.batch, args.pieces, args.listing_share, args.seed + state["step"], layout)
    started, total, hits, probed = time.time(), 0.0, np.zeros((2, len(TASKS), 2)), np.zeros(2)
    step, done = state["step"], 0.0
    while done < 1:
        done = elapsed() / 60 / args.minutes if args.minutes else (step + 1) / args.steps
        pieces, listing = next(stream)
        # Every piece is divided by the tokens of the whole step, so pieces change nothing but speed.
        made = [layout.batch([parts[i] for i in indices], listing) for indices in pieces]
        whole = sum(b["weights"][b["labels"] != -100].sum() for b in made)
        for indices, batch in zip(pieces, made, strict=True):
            pixels, cls, box = look(indices)
            with torch.set_grad_enabled(done < args.freeze_vision):
                image = see(model, pixels)
            probe_loss, right, off = probe(image[0] + sum(image[1]), cls, box)
            hidden = read(model, batch["ids"], batch["positions"], batch["mask"], image, layout.image_at)
            wanted = batch["labels"] != -100
            logits, labels = model.lm_head(hidden[wanted]), batch["labels"][wanted]
            loss = (F.cross_entropy(logits, labels, reduction="none") * batch["weights"][wanted]).sum() / whole
            (loss + args.probe_weight / len(pieces) * probe_loss).backward()
            total += loss.item()
            probed += np.array([right, off]) / len(pieces)
            correct = (logits.argmax(-1) == labels).numpy()
            row_of = wanted.nonzero()[:, 0].numpy()
            segment = batch["segments"][wanted].numpy()
            for style, name in enumerate((CAREFUL, HASTY)):
                for task in range(len(TASKS)):
                    chosen = (segment == name) & (tasks[np.array(indices)][row_of] == task)
                    hits[style, task] += correct[chosen].sum(), chosen.sum()
        for slot, (ids, positions, mask, labels) in enumerate(drills.batch(args.lookups, args.notes, args.facts)):
            hidden = read(model, ids, positions, mask)
            wanted = labels != -100
            logits, labels = model.lm_head(hidden[wanted]), labels[wanted]
            loss = F.cross_entropy(logits, labels)
            (args.drill_weight * loss).backward()
            drilled[slot] += (logits.argmax(-1) == labels).float().mean().item()
            drill_sum += loss.item()
        update(optimizers["all"], learning_rate(step, done, args.rate))
        step += 1
        if step % 25 == 0:
            per_step = (time.time() - started) / (step - state["step"])
            shares = hits[..., 0] / np.maximum(hits[..., 1], 1)
            print(f"step {step} loss {total / 25:.4f} probe {probed[0] / 25:.2f} {probed[1] / 25:.3f} drill {drill_sum / 25:.3f} look-ups {drilled[0] / 25:.3f} notes {drilled[1] / 25:.3f} facts {drilled[2] / 25:.3f} tokens right: careful "
                  + " ".join(f"{s:.3f}" for s in shares[0]) + " hasty " + " ".join(f"{s:.3f}" for s in shares[1])
                  + f"  {per_step:.2f} s/step, {100 * done:.0f} % done, {elapsed() * (1 / done - 1) / 60:.0f} min left", flush=True)
            drilled, drill_sum = np.zeros(3), 0.0
            total, hits, probed = 0.0, np.zeros_like(hits), np.zeros(2)
        if time.time() - saved > 60 * args.minutes_between_checkpoints:
            checkpoint("all", step)
            if args.score:
                print("held-out", quick_score(model, tokenizer, test_rows, test_images, args.score), flush=True)
            saved = time.time()
    checkpoint("all", step)
    print("held-out", quick_score(model, tokenizer, test_rows, test_images, 32), flush=True)


if __name__ == "__main__":
    main()
