"""Does an adapter that Owlet trained act in a llama.cpp that is not ours?

    python adapter_elsewhere.py MODEL.gguf MMPROJ.gguf ADAPTER.gguf DATA_DIR [--count 12]

Asks an independent build of llama.cpp (the server inside the PyPI package `xllamacpp`) about pictures of a data
directory as `owlet demo` writes it, greedily, without and with the adapter. Prints both replies and how many
differ; exits with 1 if none does. Run by `make check-adapter`.
"""

import argparse
import base64
import json
from pathlib import Path

import xllamacpp

SUFFIX = "Reply with <thinking> and <answer>."


def server(args, adapter: str | None) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.mmproj.path = args.mmproj
    params.n_ctx = 1024
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.sampling.temp = 0.0
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    return xllamacpp.Server(params)


def ask(server: xllamacpp.Server, picture: Path, text: str) -> str:
    encoded = base64.b64encode(picture.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
               {"type": "text", "text": text}]
    reply = server.handle_chat_completions({"messages": [{"role": "user", "content": content}], "max_tokens": 80,
                                            "temperature": 0.0})
    if isinstance(reply, (str, bytes)):
        reply = json.loads(reply)
    return reply["choices"][0]["message"]["content"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "mmproj", "adapter"):
        parser.add_argument(name)
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=12)
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.data / "data.jsonl").read_text().splitlines()[:args.count]]
    replies = []
    for adapter in (None, args.adapter):
        current = server(args, adapter)
        replies.append([
            ask(current, args.data / row["images"][0],
                "\n".join([row["problem"].removeprefix("<image>"), *row["options"], SUFFIX]))
            for row in rows
        ])
        del current
    differing = 0
    for row, before, after in zip(rows, *replies, strict=True):
        differing += before != after
        print(f"{row['problem'].removeprefix('<image>')}  {row['answer']}\n  base    {before}\n  adapter {after}")
    print(f"{differing} of {len(rows)} replies differ")
    raise SystemExit(0 if differing else 1)


if __name__ == "__main__":
    main()
