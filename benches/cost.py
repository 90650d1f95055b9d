"""What a training step costs: against prompt, completions, group, rank and layers, and in which phase.

    python3 benches/cost.py [--threads 2] [--out docs/performance] [--quick]

Runs `benches/training` (a step over a model of SmolLM2-135M's width with random weights) on a grid, fits

    seconds = a + b V + L (c T + d T r + e A)

to it, and draws both (cost.svg). L layers; T tokens that pass through them: P + G (C - 1); V tokens whose logits are
computed: G (C - 1) + 1; r the rank; A pairs of a query and a key in one layer: P (P + 1) / 2 for the prompt, and for each
completion (C - 1) P + (C - 1) C / 2. The sum of squared relative errors is least. Settings that were not fitted tell what
the law is worth.

Phases are differences of the same step: scoring is the forward pass; a gradient that keeps all activations less scoring is
the backward pass; a gradient that keeps none takes the recomputation on top. Their GFLOP/s count two operations for each
frozen weight and token (layers and vocabulary in both passes, layers alone in the recomputation), and neither attention nor
the adapter; the share is that of ggml's F32 `mul_mat` in the same process.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import chart

ROOT = Path(__file__).resolve().parents[1]
BASE = {"prompt": 320, "group": 8, "completion": 64, "rank": 8, "layers": 6}
# One changes, the others stay as in BASE.
GRID = {
    "prompt": [32, 128, 320, 640, 1024, 1536],
    "completion": [16, 32, 64, 128, 192],
    "group": [1, 2, 4, 8, 12, 16],
    "rank": [4, 8, 16, 32, 64],
    "layers": [1, 3, 6, 12, 24],
}
NOT_FITTED = [
    {"prompt": 512, "group": 4, "completion": 96, "rank": 16, "layers": 10},
    {"prompt": 200, "group": 12, "completion": 40, "rank": 8, "layers": 16},
    {"prompt": 1024, "group": 8, "completion": 32, "rank": 8, "layers": 30},
]
TERMS = ["1", "V", "L T", "L T r", "L A"]
# Weights of one layer and of the vocabulary in `benches/training`.
LAYER_WEIGHTS = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
VOCABULARY_WEIGHTS = 576 * 49_152
ALL_BYTES = 1 << 16  # MiB of kept activations: more than any setting needs


def build() -> Path:
    command = ["cargo", "bench", "--profile", "dev", "--bench", "training", "--locked", "--no-run",
               "--message-format=json-render-diagnostics"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in printed.splitlines()]
    return next(Path(message["executable"]) for message in messages
                if message.get("executable") and message["target"]["name"] == "training")


def measure(binary: Path, setting: dict, n_threads: int, n_repeats: int, *more) -> dict:
    arguments = [text for name, value in setting.items() for text in (f"--{name}", str(value))]
    command = [str(binary), *arguments, "--threads", str(n_threads), "--repeats", str(n_repeats), *map(str, more)]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"{setting}: {result['seconds']:.3f} s", file=sys.stderr, flush=True)
    return result


def counts(setting: dict) -> tuple:
    """Tokens, tokens with logits, and pairs of a query and a key in a layer."""
    n_prompt, n_group, n_inner = setting["prompt"], setting["group"], setting["completion"] - 1
    pairs = n_prompt * (n_prompt + 1) / 2 + n_group * (n_inner * n_prompt + n_inner * (n_inner + 1) / 2)
    return n_prompt + n_group * n_inner, n_group * n_inner + 1, pairs


def terms(setting: dict) -> list:
    n_tokens, n_predicting, pairs = counts(setting)
    n_layers = setting["layers"]
    return [1, n_predicting, n_layers * n_tokens, n_layers * n_tokens * setting["rank"], n_layers * pairs]


def fit(settings: list, seconds: list) -> list:
    """Coefficients of TERMS with the least sum of squared relative errors, by the normal equations."""
    rows = [[term / time for term in terms(setting)] for setting, time in zip(settings, seconds)]
    scales = [max(row[index] for row in rows) for index in range(len(TERMS))]
    rows = [[value / scale for value, scale in zip(row, scales)] for row in rows]
    system = [[sum(row[i] * row[j] for row in rows) for j in range(len(TERMS))] + [sum(row[i] for row in rows)]
              for i in range(len(TERMS))]
    for pivot in range(len(system)):
        best = max(range(pivot, len(system)), key=lambda row: abs(system[row][pivot]))
        system[pivot], system[best] = system[best], system[pivot]
        for row in range(len(system)):
            if row != pivot:
                factor = system[row][pivot] / system[pivot][pivot]
                system[row] = [a - factor * b for a, b in zip(system[row], system[pivot])]
    return [row[-1] / row[index] / scale for index, (row, scale) in enumerate(zip(system, scales))]


def predict(law: list, setting: dict) -> float:
    return sum(coefficient * term for coefficient, term in zip(law, terms(setting)))


def phases(binary: Path, setting: dict, n_threads: int, n_repeats: int) -> list:
    """Name, seconds, GFLOP/s and share of the peak of each phase."""
    kept = measure(binary, setting, n_threads, n_repeats, "--activation-mib", ALL_BYTES)
    computed_again = measure(binary, setting, n_threads, n_repeats, "--activation-mib", 0)
    n_tokens, n_predicting, _ = counts(setting)
    layers, vocabulary = 2 * LAYER_WEIGHTS * setting["layers"] * n_tokens, 2 * VOCABULARY_WEIGHTS * n_predicting
    forward = min(kept["score_seconds"], computed_again["score_seconds"])
    peak = max(kept["peak_gflops"], computed_again["peak_gflops"])
    rows = [
        ("forward", forward, layers + vocabulary),
        ("recomputation", computed_again["seconds"] - kept["seconds"], layers),
        ("backward", kept["seconds"] - forward, layers + vocabulary),
    ]
    return [(name, seconds, work / seconds / 1e9, work / seconds / 1e9 / peak) for name, seconds, work in rows]


def panels(law: list, measured: dict) -> list:
    drawn = []
    for name, values in GRID.items():
        setting = lambda value, name=name: BASE | {name: value}
        dots = [(value, measured[key(setting(value))]) for value in values]
        line = [values[0] + (values[-1] - values[0]) * index / 40 for index in range(41)]
        line = [(value, predict(law, setting(value))) for value in line]
        drawn.append(chart.Panel(f"seconds against {name}", name, [
            chart.Series(line, chart.COLOURS[0], "law"), chart.Series(dots, chart.COLOURS[1], "measured", is_dots=True),
        ], from_zero=True))
    return drawn


def key(setting: dict) -> tuple:
    return tuple(setting[name] for name in BASE)


def error(law: list, setting: dict, seconds: float) -> float:
    return predict(law, setting) / seconds - 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="steps measured, after one that is not; the fastest counts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/performance")
    parser.add_argument("--quick", action="store_true", help="a few small settings, to try the program")
    args = parser.parse_args()
    binary = build()
    whole, held_back = BASE | {"layers": 30}, NOT_FITTED
    if args.quick:
        BASE.update(prompt=64, group=4, completion=16, layers=2)
        GRID.update({name: values[:3] for name, values in GRID.items()})
        whole, held_back = dict(BASE), []

    settings = {key(BASE | {name: value}): BASE | {name: value} for name, values in GRID.items() for value in values}
    measured = {at: measure(binary, setting, args.threads, args.repeats)["seconds"] for at, setting in settings.items()}
    law = fit(list(settings.values()), list(measured.values()))
    errors = [abs(error(law, setting, measured[at])) for at, setting in settings.items()]
    lines = ["| term | seconds for one |", "|---|---|"]
    lines += [f"| {term} | {coefficient:.3g} |" for term, coefficient in zip(TERMS, law)]
    lines += ["", f"Error of the law on its {len(errors)} settings: mean {100 * sum(errors) / len(errors):.1f} %, "
                  f"largest {100 * max(errors):.1f} %.", "", "| not fitted: P, G, C, r, L | measured | law | error |",
              "|---|---|---|---|"]
    for setting in held_back:
        seconds = measure(binary, setting, args.threads, args.repeats)["seconds"]
        names = ", ".join(str(setting[name]) for name in ("prompt", "group", "completion", "rank", "layers"))
        lines.append(f"| {names} | {seconds:.2f} s | {predict(law, setting):.2f} s | "
                     f"{100 * error(law, setting, seconds):+.1f} % |")
    lines += ["", f"| phase, {whole['layers']} layers | seconds | GFLOP/s | of `mul_mat` |", "|---|---|---|---|"]
    lines += [f"| {name} | {seconds:.2f} | {gflops:.0f} | {100 * share:.0f} % |"
              for name, seconds, gflops, share in phases(binary, whole, args.threads, args.repeats)]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "cost.md").write_text("\n".join(lines) + "\n")
    (args.out / "cost.svg").write_text(chart.figure(panels(law, measured), 3))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
