"""Gradients of activated LoRA (aLoRA) adapters by transformers.

    python make.py REFERENCES OUTPUT

REFERENCES is the folder with `<model>/model`, `<model>/golden` and `<model>/lora`; OUTPUT the folder of `<model>.json`.
Needs transformers 4.57 and, for pictures, Pillow.

Every linear layer gets the update `scaling B A x` of the reference adapter, on tokens from the last occurrence of the chat
template's `<|im_start|>assistant` and a line break on, those included, and on no token before, as PEFT does with
`alora_invocation_tokens`. Each completion is a sequence of its own; nothing is shared or cached. The loss of a run is
`sum w[t] * logprob[t]` with completions and w of `lora.json`; a group's losses are added.

Stored are the log-probabilities and, of every gradient, the L2 norm and eight sums with signs (`sign` below): any error in a
gradient shows in them at its own size.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

RUNS = {"tiny-llama": ["text", "group"], "tiny-qwen3": ["text"], "tiny-qwen3vl-tied": ["image", "group"]}
SIGNS = 8


def sign(k, n):
    """+1 or -1 for elements 0..n of a row-major tensor: the top bit of SplitMix64's output function."""
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=np.uint64) * np.uint64(SIGNS) + np.uint64(k) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where((z ^ (z >> np.uint64(31))) >> np.uint64(63), 1.0, -1.0)


def load(folder):
    config = json.loads((folder / "config.json").read_text())
    kind = AutoModelForImageTextToText if config["model_type"] == "qwen3_vl" else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


class Activated:
    """The factors of all linear layers, hooked into the model; `start` is the first token that they act on."""

    def __init__(self, model, adapter, scaling):
        model.requires_grad_(False)
        self.start = 0
        self.factors = {}
        modules = dict(model.named_modules())
        for key, a in adapter.items():
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = adapter[key.replace("lora_A", "lora_B")]
            pair = [factor.clone().requires_grad_() for factor in (a, b)]
            self.factors[name] = pair
            modules[name].register_forward_hook(self.hook(pair, scaling))

    def hook(self, pair, scaling):
        def act(_module, inputs, output):
            acts = (torch.arange(output.shape[1]) >= self.start)[None, :, None]
            return output + acts * scaling * (inputs[0] @ pair[0].T @ pair[1].T)

        return act


def pixels(references, folder, case):
    cases = json.loads((folder / "golden/cases.json").read_text())["cases"]
    entry = next(entry for entry in cases if entry["name"] == case)
    if not entry["images"]:
        return {}
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder / "model")
    names = [image if isinstance(image, str) else image["file"] for image in entry["images"]]
    found = [next(path for path in (references / name, references / "images" / name) if path.is_file()) for name in names]
    pictures = [Image.open(path).convert("RGB") for path in found]
    inputs = processor.image_processor(pictures, return_tensors="pt")
    return {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}


def last_occurrence(tokens, part):
    return max(i for i in range(len(tokens) - len(part) + 1) if tokens[i : i + len(part)] == part)


def measure(references, folder, names):
    lora = json.loads((folder / "lora/lora.json").read_text())
    model = load(folder / "model")
    activated = Activated(model, load_file(folder / "lora/adapter/adapter_model.safetensors"), lora["config"]["scaling"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    invocation = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    runs = {}
    for name in names:
        run = lora["runs"][name]
        prompt = load_file(folder / f"golden/{run['case']}.safetensors")["input_ids"].tolist()
        activated.start = last_occurrence(prompt, invocation)
        pictures = pixels(references, folder, run["case"])
        nested = isinstance(run["completion_ids"][0], list)
        completions = run["completion_ids"] if nested else [run["completion_ids"]]
        weights = run["weights"] if nested else [run["weights"]]
        logprobs = []
        model.zero_grad()
        for pair in activated.factors.values():
            for factor in pair:
                factor.grad = None
        for completion, weight in zip(completions, weights):
            ids = torch.tensor([prompt + completion])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[0]
            chosen = torch.log_softmax(logits[len(prompt) - 1 : -1], -1).gather(1, torch.tensor(completion)[:, None])[:, 0]
            (chosen * torch.tensor(weight, dtype=torch.float32)).sum().backward()
            logprobs.append([round(x, 6) for x in chosen.tolist()])
        gradients = {}
        for module, pair in sorted(activated.factors.items()):
            for factor, tensor in zip("AB", pair):
                values = tensor.grad.double().numpy().reshape(-1)
                sums = [float((values * sign(k, values.size)).sum()) for k in range(SIGNS)]
                numbers = [float(np.linalg.norm(values)), *sums]
                gradients[f"{module}.lora_{factor}.weight"] = [float(f"{x:.8g}") for x in numbers]
        runs[name] = {"start": activated.start, "logprobs": logprobs, "gradients": gradients}
    return {"invocation": invocation, "runs": runs}


def main():
    references, output = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    for name, runs in RUNS.items():
        result = measure(references, references / name, runs)
        text = json.dumps(result, separators=(",", ":")).replace('"runs"', '\n"runs"').replace('],"', '],\n"')
        (output / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
