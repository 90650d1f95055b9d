"""Tables of runs in Markdown, with 95 % intervals."""

import math
from statistics import fmean, stdev

from .runs import Run


def t_quantile(degrees: int) -> float:
    """97.5 % of Student's t; beyond the table by the first term of its expansion, right to 0.003."""
    table = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]
    return table[degrees - 1] if degrees <= len(table) else 1.96 + 2.45 / degrees


def mean_interval(values: list) -> tuple:
    """Mean and the half width of its interval."""
    if len(values) < 2:
        return fmean(values), math.inf
    return fmean(values), t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def wilson(values: list) -> tuple:
    """Mean of answers that are right (1) or wrong (0), and Wilson's interval."""
    n, share, z = len(values), fmean(values), 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return share, centre - half, centre + half


def signed(values: list) -> str:
    mean, half = mean_interval(values)
    return f"{mean:+.3f}" if math.isinf(half) else f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def percent(values: list) -> str:
    """Mean and interval of accuracies."""
    if all(value in (0, 1) for value in values):
        mean, low, high = wilson(values)
    else:
        mean, half = mean_interval(values)
        low, high = max(0, mean - half), min(1, mean + half)
    return f"{100 * mean:.1f} % ({100 * low:.0f}-{100 * high:.0f})"


def table(heading: list, rows: list) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [heading, ["---"] * len(heading), *rows]]
    return "\n".join(lines) + "\n"


def parts(run: Run, when: str, part: str, task: str | None = None) -> list:
    """A part of the reward of each answer."""
    answers = [pair[when] for pair in run.answers]
    return [answer["parts"][part] for answer in answers if task in (None, answer["task"])]


def gains(run: Run) -> list:
    return [after - before for before, after in zip(run.rewards("before"), run.rewards("after"))]


def of_runs(runs: list[Run]) -> str:
    """A line a run: the same questions before and after."""
    length = lambda run, when: f"{fmean(pair[when]['n_tokens'] for pair in run.answers):.0f}"
    rows = [[
        run.name, run.seed, f"{fmean(run.rewards('before')):.3f}", f"{fmean(run.rewards('after')):.3f}", signed(gains(run)),
        percent(parts(run, "before", "accuracy")), percent(parts(run, "after", "accuracy")),
        f"{length(run, 'before')}, {length(run, 'after')}", f"{run.cpu_seconds / 60:.1f}" if run.cpu_seconds else "",
    ] for run in runs]
    return table(["run", "seed", "reward before", "after", "change (95 %)", "accuracy before (95 %)", "after (95 %)",
                  "tokens before, after", "processor minutes"], rows)


def of_tasks(runs: list[Run]) -> str:
    """Accuracy by task, all seeds of a method together."""
    names = list(dict.fromkeys(run.name for run in runs))
    tasks = sorted({pair["before"]["task"] for run in runs for pair in run.answers})
    pooled = lambda name, when, task: [value for run in runs if run.name == name for value in parts(run, when, "accuracy", task)]
    rows = [[task, percent(pooled(names[0], "before", task)), *(percent(pooled(name, "after", task)) for name in names)]
            for task in tasks]
    return table(["accuracy (95 %)", "before", *(f"after {name}" for name in names)], rows)


def of_methods(runs: list[Run]) -> str:
    """The change of each method, and the differences of methods on the same questions of the same seeds."""
    by_name = {}
    for run in runs:
        by_name.setdefault(run.name, {})[run.seed] = run
    rows = []
    for name, of_seed in by_name.items():
        rows.append([f"{name}: after - before", *spread([gains(run) for run in of_seed.values()])])
    names = list(by_name)
    for index, first in enumerate(names):
        for second in names[index + 1:]:
            seeds = [seed for seed in by_name[first] if seed in by_name[second]]
            pairs = [zip(by_name[first][seed].rewards("after"), by_name[second][seed].rewards("after")) for seed in seeds]
            rows.append([f"{first} - {second}, both after", *spread([[a - b for a, b in pair] for pair in pairs])])
    return table(["mean reward", "by questions (95 %)", "by seeds (95 %)", "each seed"], rows)


def spread(of_seeds: list) -> list:
    """Differences as questions tell them, as seeds tell them, and each seed's mean."""
    means = [fmean(differences) for differences in of_seeds]
    return [signed([difference for differences in of_seeds for difference in differences]), signed(means),
            ", ".join(f"{mean:+.3f}" for mean in means)]
