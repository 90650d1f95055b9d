"""One optimizer step of a policy gradient with transformers + peft on CPU: what `benches/training.rs` is compared with.

The model has the shape of SmolLM2-135M with random weights in F32. A group is one prompt of P tokens and G completions of C
tokens; rank-8 adapters sit on all linear layers. A step is forward, loss (the mean over tokens of minus advantage times
log-probability, which is GRPO's gradient on policy), backward and AdamW. Prints one line of JSON: seconds of the fastest of
several steps, least processor time of one, and the peak of anonymous memory of the process in bytes.
"""

import argparse
import json
import threading
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def anonymous_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell RssAnon")


class Peak(threading.Thread):
    """Samples anonymous memory every 5 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self):
        while True:
            self.bytes = max(self.bytes, anonymous_bytes())
            time.sleep(0.005)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=int, default=320, help="prompt tokens P")
    parser.add_argument("--group", type=int, default=8, help="completions G")
    parser.add_argument("--completion", type=int, default=64, help="tokens C of a completion")
    parser.add_argument("--micro-batch", type=int, default=1, help="sequences of one forward and backward pass")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=2, help="steps measured, after one that is not")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=args.layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    prompt = torch.randint(0, config.vocab_size, (1, args.prompt)).expand(args.group, -1)
    completions = torch.randint(0, config.vocab_size, (args.group, args.completion))
    tokens = torch.cat([prompt, completions], dim=1)
    advantages = torch.linspace(-1, 1, args.group)

    def step():
        for first in range(0, args.group, args.micro_batch):
            part = slice(first, first + args.micro_batch)
            # Logits of the tokens before the completion's, as trainers ask for them; not of the prompt.
            logits = model(tokens[part], logits_to_keep=args.completion + 1).logits[:, :-1]
            logprobs = torch.log_softmax(logits.float(), -1).gather(-1, completions[part].unsqueeze(-1)).squeeze(-1)
            loss = -(advantages[part].unsqueeze(-1) * logprobs).sum() / completions.numel()
            loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()

    peak = Peak()
    peak.start()
    times, cpu_times = [], []
    for _ in range(args.repeats + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
    measured = {"seconds": min(times[1:] or times), "cpu_seconds": min(cpu_times[1:] or cpu_times)}
    print(json.dumps({**vars(args), **measured, "anonymous_bytes": peak.bytes, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
