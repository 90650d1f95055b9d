"""Checks of the recipe: `python test_recipe.py --data DIR --tokenizer DIR` (takes seconds)."""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from common import SUFFIX, DESCRIBE, prompt_text, read_images, read_rows
from layout import CAREFUL, HASTY, LISTING, Layout, encode, prefix_ids, question_ids
from model import generate, new_model, read, see


def hf_logits(model, ids, pixels):
    """Logits of one conversation by Hugging Face's own forward, own positions, own patches."""
    x = (pixels.float() - 127.5) / 127.5
    x = x.permute(2, 0, 1)[None].expand(2, 3, 128, 128)  # time, channel, y, x
    x = x.reshape(1, 2, 3, 4, 2, 16, 4, 2, 16).permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(64, -1)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), pixel_values=x,
                     image_grid_thw=torch.tensor([[1, 8, 8]]),
                     attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]


def test_branches_match_hugging_face(tokenizer, rows, images):
    model = new_model(tokenizer, 1).eval()
    # Larger weights than at the start, so that every part of the network matters.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(2.0)
    layout = Layout(tokenizer, 0.5)
    parts = encode(tokenizer, rows)
    batch = layout.batch(parts, True)
    pixels = torch.from_numpy(images.copy())
    with torch.no_grad():
        hidden = read(model, batch["ids"], batch["positions"], batch["mask"], see(model, pixels), layout.image_at)
        logits = model.lm_head(hidden)
    worst = 0.0
    for i, (question, careful, hasty, description) in enumerate(parts):
        for segment, ids in (
            (CAREFUL, question + careful), (HASTY, question + hasty), (LISTING, layout.describe + description),
        ):
            ours = logits[i, batch["segments"][i] == segment]
            theirs = hf_logits(model, layout.prefix + ids, pixels[i])[-len(ours):]
            worst = max(worst, (ours - theirs).abs().max().item())
    assert worst < 1e-4, worst
    print(f"branches match Hugging Face: largest difference {worst:.1e}")


def test_generation_matches_hugging_face(tokenizer, rows, images):
    model = new_model(tokenizer, 2).eval()
    pixels = torch.from_numpy(images.copy())
    prompts = [prompt_text(r) for r in rows]
    replies = generate(model, tokenizer, prompts, pixels, max_tokens=12)
    for i, prompt in enumerate(prompts):
        ids = prefix_ids(tokenizer) + question_ids(tokenizer, prompt)
        start = len(ids)
        for _ in range(12):
            ids.append(hf_logits(model, ids, pixels[i])[-1].argmax().item())
        assert tokenizer.decode(ids[start:]).startswith(replies[i]), (replies[i], tokenizer.decode(ids[start:]))
    print("generation matches Hugging Face")


def test_prompts_match_the_chat_template_and_the_crate(tokenizer, rows):
    source = Path(__file__).parent.parent.joinpath("src/tasks.rs").read_text(encoding="utf-8")
    assert f'PROMPT_SUFFIX: &str = "{SUFFIX}"' in source
    assert f'DESCRIBE_PROBLEM: &str = "<image>{DESCRIBE}"' in source
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt_text(rows[0])}]}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * 16)
    ours = prefix_ids(tokenizer) + question_ids(tokenizer, prompt_text(rows[0]))
    assert tokenizer.encode(text, add_special_tokens=False) == ours
    print("prompts match the chat template and the crate")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    rows = read_rows(args.data)
    images = read_images(args.data, rows)
    test_prompts_match_the_chat_template_and_the_crate(tokenizer, rows)
    test_branches_match_hugging_face(tokenizer, rows[:6], images[:6])
    test_generation_matches_hugging_face(tokenizer, rows[:6], images[:6])


if __name__ == "__main__":
    main()
