"""Writes a checkpoint directory as Hugging Face's `save_pretrained` does, in float16."""

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig

PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": 4096, "longest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def save(model, tokenizer, out: Path):
    """Writes beside `out` and swaps: `out` is complete or absent."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    half = copy.deepcopy(model).to(torch.float16)
    token = tokenizer.convert_tokens_to_ids
    half.generation_config = GenerationConfig(
        bos_token_id=token("<|endoftext|>"),
        pad_token_id=token("<|endoftext|>"),
        eos_token_id=[token("<|im_end|>"), token("<|endoftext|>")],
    )
    half.save_pretrained(partial, safe_serialization=True)
    tokenizer.save_pretrained(partial)
    # Some loaders read the template from its own file, others from tokenizer_config.json.
    (partial / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}, indent=2))
    (partial / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)
