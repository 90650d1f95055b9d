"""Gradients of LoRA adapters by transformers and peft, for targets and ranks that the main references lack.

    python make.py REFERENCES MODEL

REFERENCES is the folder with `<model>/model`, `<model>/golden` and `<model>/lora/lora.json` (for tiny-llama the folder above
this one will do), MODEL one of its folders. Needs transformers 4.57, peft 0.18 and, for pictures, Pillow.

The adapter's numbers follow from a formula that the tests know too (`adapter_values`), so only gradients are stored, those of
the first layer, to which all others lead back: `<model>_<targets>_r<rank>.safetensors`, keys `<run>.<layer>.<module>.lora_A`;
of rank 16 those of the last run alone. The loss of a run is
`sum w[t] * logprob[t]` with completions and w of `lora.json`; a group's losses are added.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = [("qv", ["q_proj", "v_proj"], 4), ("qv", ["q_proj", "v_proj"], 8), ("all", ALL, 8), ("all", ALL, 16)]
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def adapter_values(rank, layer, target, factor, shape):
    """Uniform in -0.1..0.1 by SplitMix64 under the key (rank, layer, target, factor), row-major in the checkpoint's order."""
    state = 4
    for word in (rank, layer, target, factor):
        state = mix(((state + GAMMA) & MASK) ^ mix((word + GAMMA) & MASK))
    values = []
    for _ in range(int(np.prod(shape))):
        state = (state + GAMMA) & MASK
        values.append((mix(state) >> 11) * 2.0**-53 * 0.2 - 0.1)
    return torch.tensor(np.array(values, dtype=np.float32).reshape(shape))


def load(folder):
    config = json.loads((folder / "config.json").read_text())
    kind = AutoModelForImageTextToText if config["model_type"] == "qwen3_vl" else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def pixels(folder, case):
    """What the processor makes of the pictures of a case; nothing for text."""
    entry = next(entry for entry in json.loads((folder / "golden/cases.json").read_text())["cases"] if entry["name"] == case)
    if not entry.get("images"):
        return {}
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder / "model")
    pictures = [Image.open(folder.parent / image).convert("RGB") for image in entry["images"]]
    inputs = processor.image_processor(pictures, return_tensors="pt")
    return {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}


def loss(model, folder, run):
    prompt = load_file(folder / f"golden/{run['case']}.safetensors")["input_ids"].tolist()
    pictures = pixels(folder, run["case"]) if (folder / "golden/cases.json").is_file() else {}
    nested = isinstance(run["completion_ids"][0], list)
    completions = run["completion_ids"] if nested else [run["completion_ids"]]
    weights = run["weights"] if nested else [run["weights"]]
    total = 0.0
    for completion, weight in zip(completions, weights):
        ids = torch.tensor([prompt + completion])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[0]
        logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
        chosen = logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0]
        total = total + (chosen * torch.tensor(weight, dtype=torch.float32)).sum()
    return total


def main(references, name):
    folder = Path(references) / name
    runs = json.loads((folder / "lora/lora.json").read_text())["runs"]
    runs = {run: runs[run] for run in ("text", "image", "group") if run in runs and (folder / f"golden/{runs[run]['case']}.safetensors").is_file()}
    for label, targets, rank in CASES:
        model = load(folder / "model")
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, lora_dropout=0.0, bias="none")
        model = get_peft_model(model, config)
        gradients, factors = {}, {}
        for key, parameter in model.named_parameters():
            if "lora_" not in key or ".visual." in key:
                continue
            parts = key.split(".")
            layer, target = int(parts[parts.index("layers") + 1]), ALL.index(parts[-4])
            factor = 0 if "lora_A" in key else 1
            parameter.data.copy_(adapter_values(rank, layer, target, factor, tuple(parameter.shape)))
            factors[f"{layer}.{ALL[target]}.lora_{'AB'[factor]}"] = parameter
        for run, description in list(runs.items())[-1 if rank == 16 else 0 :]:
            model.zero_grad()
            loss(model, folder, description).backward()
            for key, parameter in factors.items():
                if key.startswith("0."):
                    gradients[f"{run}.{key}"] = parameter.grad.numpy()
        save_file(gradients, Path(__file__).parent / f"{name}_{label}_r{rank}.safetensors")
        print(name, label, rank, len(gradients))


if __name__ == "__main__":
    main(*sys.argv[1:])
