"""Runs of `owlet adapt`, each in a folder of its own, kept and never repeated."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Run:
    """A finished run."""

    name: str
    seed: int
    report: dict  # what `owlet adapt --json` printed
    steps: list  # metrics.jsonl, one object a step
    answers: list  # held-out questions: {"before": answer, "after": answer}
    wall_seconds: float  # of training and both evaluations
    cpu_seconds: float  # of all its threads

    def rewards(self, when: str) -> list:
        return [pair[when]["reward"] for pair in self.answers]


def owlet(binary: Path, *arguments) -> tuple[str, float]:
    """What a command printed, and its processor time in seconds."""
    command = [str(binary), *map(str, arguments)]
    print("+ " + " ".join(command), file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return printed, usage.ru_utime + usage.ru_stime


def adapt(binary: Path, folder: Path, name: str, seed: int, *arguments) -> Run:
    """Trains in `folder`, or reads what an earlier call left there; goes on where an earlier call was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    report, checkpoints, answers = folder / "report.json", folder / "checkpoints", folder / "answers.jsonl"
    if not report.exists():
        resume = ["--resume"] if any(checkpoints.glob("step-*")) else []
        started = time.monotonic()
        printed, cpu_seconds = owlet(
            binary, "adapt", "--out", folder / "adapter.gguf", "--checkpoint-dir", checkpoints, "--answers", answers,
            "--seed", seed, "--json", "--quiet", *resume, *arguments)
        measured = {
            "report": json.loads(printed), "cpu_seconds": cpu_seconds, "wall_seconds": time.monotonic() - started,
            "was_resumed": bool(resume),
        }
        unfinished = report.with_suffix(".partial")
        unfinished.write_text(json.dumps(measured))
        unfinished.rename(report)
    measured = json.loads(report.read_text())
    return Run(name, seed, measured["report"], lines(checkpoints / "metrics.jsonl"), lines(answers),
               measured["wall_seconds"], measured["cpu_seconds"])


def side_by_side(n_jobs: int, jobs: list) -> list:
    """Results of functions without arguments, at most `n_jobs` of them at a time, in their order."""
    with ThreadPoolExecutor(n_jobs) as pool:
        return list(pool.map(lambda job: job(), jobs))


def lines(path: Path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]
