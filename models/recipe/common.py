"""Data: rows of `data.jsonl`, pictures, prompts and rewards, shared by all scripts."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

# The same two texts as in `models/src/tasks.rs`; test_recipe.py compares them.
SUFFIX = "Reply with <thinking> and <answer>."
DESCRIBE = "Describe the image."
TASKS = [
    "spatial_grounding", "spatial_reasoning", "general_vqa_science_stem",
    "math_reasoning", "chart_figure_qa", "ocr",
]
IMAGE_SIZE = 128
GRID = IMAGE_SIZE // 16
UNITS = 1024


def read_rows(data: Path) -> list:
    with open(data / "data.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_images(data: Path, rows: list) -> np.ndarray:
    """All pictures as [N, 128, 128, 3] bytes; cached beside the data, since decoding takes a minute."""
    cache = data / "images.npy"
    if not cache.exists():
        pixels = np.empty((len(rows), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        for index, row in enumerate(rows):
            pixels[index] = np.asarray(Image.open(data / row["images"][0]).convert("RGB"))
        partial = data / "images.partial.npy"
        np.save(partial, pixels)
        partial.rename(cache)
    return np.load(cache, mmap_mode="r")


def prompt_text(row: dict) -> str:
    """What the user says after the image."""
    problem = row["problem"].removeprefix("<image>")
    return "\n".join([problem, *row["options"], SUFFIX])


def truth(row: dict) -> str:
    return row["answer"].removeprefix("<answer>").removesuffix("</answer>")


def answer_of(response: str) -> str:
    _, _, tail = response.partition("<answer>")
    return tail.partition("</answer>")[0].strip() or response


def accuracy(row: dict, response: str) -> float:
    """The accuracy part of the reference's reward, for the four problem types used here."""
    got, want = answer_of(response), truth(row)
    kind = row["problem_type"]
    try:
        if kind == "spatial grounding":
            return _iou(json.loads(got)["boxes"], json.loads(want)["boxes"])
        if kind == "numerical":
            return float(round(float(got), 2) == round(float(want), 2))
    except (ValueError, KeyError, TypeError):
        return 0.0
    if kind == "ocr":
        return max(0.0, 1 - _edits(got.split(), want.split()) / len(want.split()))
    return float(got == want)


def _iou(a: list, b: list) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area = lambda box: max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
    return shared / max(area(a) + area(b) - shared, 1e-9)


def _edits(a: list, b: list) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


# Patches in the order of the vision tower: blocks of 2 x 2 patches, row by row.
_cells = np.arange(GRID * GRID).reshape(GRID // 2, 2, GRID // 2, 2).transpose(0, 2, 1, 3).reshape(-1)
PATCH_ORDER = _cells                      # tower index -> raster index
TOWER_INDEX = np.argsort(_cells)          # raster index -> tower index


def mark_targets(rows: list):
    """Dense targets per patch: class [N, 64] (0 is nothing) and box offsets [N, 64, 4]."""
    classes = np.zeros((len(rows), GRID * GRID), np.uint8)
    boxes = np.zeros((len(rows), GRID * GRID, 4), np.float16)
    patch = UNITS // GRID
    for index, row in enumerate(rows):
        for mark in row["marks"]:
            left, top, right, bottom = mark["bounds"]
            x, y = (left + right) // 2, (top + bottom) // 2
            column, line = min(x // patch, GRID - 1), min(y // patch, GRID - 1)
            where = TOWER_INDEX[line * GRID + column]
            classes[index, where] = mark["class"] + 1
            boxes[index, where] = [
                (x - column * patch) / patch - 0.5, (y - line * patch) / patch - 0.5,
                (right - left) / 256, (bottom - top) / 256,
            ]
    return classes, boxes
