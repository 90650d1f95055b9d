"""Distillation of a LoRA adapter by transformers and peft: divergences of every token and their gradients.

    python make.py REFERENCES MODEL

REFERENCES is the folder with `<model>/model`, `<model>/golden` and `<model>/lora` (for tiny-llama the folder above this one will
do), MODEL one of its folders with a run `group` over text. Needs transformers 4.57 and peft 0.18.

The student is the model with the adapter of the references, the teacher the model alone. The loss is
`sum w[t] * KL(teacher || student)` over the tokens of the group, at TEMPERATURE and with the w of `lora.json`, by autograd from
PyTorch's own `kl_div` in float64. Written are `kl`, the divergences in a row, and the gradients under the names of the adapter's
tensors, in float32.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TEMPERATURE = 0.7


def main(references, name):
    folder = Path(references) / name
    run = json.loads((folder / "lora/lora.json").read_text())["runs"]["group"]
    prompt = load_file(folder / f"golden/{run['case']}.safetensors")["input_ids"].tolist()
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64, attn_implementation="eager").eval()
    model = PeftModel.from_pretrained(base, folder / "lora/adapter", is_trainable=True, autocast_adapter_dtype=False).double()
    loss, divergences = 0.0, []
    for completion, weights in zip(run["completion_ids"], run["weights"]):
        ids = torch.tensor([prompt + completion])

        def logprobs():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            return torch.log_softmax(logits / TEMPERATURE, -1)

        with torch.no_grad(), model.disable_adapter():
            teacher = logprobs()
        kl = torch.nn.functional.kl_div(logprobs(), teacher, reduction="none", log_target=True).sum(-1)
        divergences.append(kl.detach())
        loss = loss + (kl * torch.tensor(weights, dtype=torch.float64)).sum()
    loss.backward()
    tensors = {"kl": torch.cat(divergences)}
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            tensors[key.replace(".default", "")] = parameter.grad
    tensors = {key: tensor.float().contiguous() for key, tensor in tensors.items()}
    save_file(tensors, Path(__file__).parent / f"{name}.safetensors")
    print(name, float(loss), [round(float(kl), 4) for kl in tensors["kl"]][:8], len(tensors))


if __name__ == "__main__":
    main(*sys.argv[1:])
