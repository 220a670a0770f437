"""Binary detectors on real recordings, split as their manifests say."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accuracy import reference
from training import calibrate
from training.data import Clip, Skipped, cut_windows, read_clips
from training.recordings import Segment

FOLDS = "12345"
Row = dict[str, str]


@dataclass(frozen=True)
class Task:
    """Positives and negatives to train on, and to test on."""

    name: str
    train: tuple[list[Segment], list[Segment]]
    test: tuple[list[Segment], list[Segment]]


@dataclass(frozen=True)
class RealResult:
    """One detector on one task, at its own threshold."""

    detector: str
    task: str
    accuracy: float
    auc: float
    n_positive: int
    n_negative: int


def propeller(data: Path) -> Task:
    """A drone motor with propeller at throttle settings never heard, against field sounds and a forest."""
    forest = _rows(data / "forest-background", lambda _row: True)
    motor = data / "motor-tones"
    return Task(
        "propeller",
        (
            _rows(motor, lambda row: row["label"] == "prop" and row["throttle_pct"] in {"20", "40", "60"}),
            _rows(data / "field-sounds", lambda row: row["fold"][-1] in "123") + forest[:12],
        ),
        (
            _rows(motor, lambda row: row["label"] == "prop" and row["throttle_pct"] in {"30", "50"}),
            _rows(data / "field-sounds", lambda row: row["fold"][-1] in "45") + forest[12:],
        ),
    )


def one_class_of(data: Path, label: str) -> list[Task]:
    """One class of the field sounds against all others, five folds."""

    def part(fold: str, *, target: bool, test: bool) -> list[Segment]:
        return _rows(
            data / "field-sounds", lambda row: (row["label"] == label) == target and (row["fold"][-1] == fold) == test
        )

    return [
        Task(
            label,
            (part(fold, target=True, test=False), part(fold, target=False, test=False)),
            (part(fold, target=True, test=True), part(fold, target=False, test=True)),
        )
        for fold in FOLDS
    ]


def run(task: Task, backbone: str, seed: int) -> list[RealResult]:
    """Train and test one backbone, and the template."""
    train, test = _clips(task.train), _clips(task.test)
    scorer = reference.trained(train, backbone, seed)
    windows = cut_windows(test, scorer.bundle.manifest.views[0].spec)
    found = {
        backbone: reference.figures_of(scorer, windows),
        reference.TEMPLATE: reference.template_figures(train, windows, scorer, seed),
    }
    return [_result(name, task, figures) for name, figures in found.items()]


def _result(name: str, task: Task, figures: calibrate.Figures) -> RealResult:
    return RealResult(name, task.name, figures.accuracy, figures.auc, figures.n_positive, figures.n_negative)


def _rows(folder: Path, wanted: Callable[[Row], bool]) -> list[Segment]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if wanted(row)]
    return [Segment(folder / row["path"], row["session"], label=row["label"]) for row in rows]


def _clips(sides: tuple[list[Segment], list[Segment]]) -> list[Clip]:
    skipped = Skipped()
    return read_clips(sides[0], True, skipped) + read_clips(sides[1], False, skipped)
