"""Score files with the daemon's own engine: the same backlog, features and batches, without the sockets."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from detectd.bundles.scoring import Scorer
from detectd.dsp.clips import fit_to_window, read_clip
from detectd.engine.engine import Engine
from detectd.engine.watch import Detector
from detectd.errors import SourceError
from detectd.streams.backlog import Break, Chunk, Mark
from detectd.streams.stream import Stream

_BLOCK_S = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One window of a file.

    Attributes
    ----------
    start_s, end_s : float
        Where it lies in the file, in seconds.
    score : float
    """

    path: str
    start_s: float
    end_s: float
    score: float


def score_file(path: str, scorer: Scorer, hop_s: float) -> Iterator[Row]:
    """Score every window of a file; channels are averaged, and a file shorter than a window is repeated to fill one.

    Raises
    ------
    SourceError
        If the file cannot be read or its rate does not hold the bundle's band.
    """
    samples, rate_hz = read_clip(path)
    specs = [view.spec for view in scorer.bundle.manifest.views]
    needed_hz = max(spec.min_rate_hz for spec in specs)
    if rate_hz < needed_hz:
        raise SourceError(
            f"{path}: has {rate_hz} samples/s, bundle {scorer.bundle.ident} needs at least {needed_hz} "
            f"for its band up to {max(spec.band_high_hz for spec in specs):g} Hz"
        )
    window_s = max(spec.window_s for spec in specs)
    mono = fit_to_window(samples.mean(axis=1), rate_hz, window_s)
    for start_sample, score in score_samples(mono, rate_hz, scorer, hop_s):
        yield Row(path, start_sample / rate_hz, start_sample / rate_hz + window_s, score)


def score_samples(
    samples: NDArray[np.float32], rate_hz: int, scorer: Scorer, hop_s: float
) -> Iterator[tuple[int, float]]:
    """Score every window of a recording, shape ``(n,)``: first sample and score of each."""
    stream = Stream("file")
    stream.backlog.capacity_samples = len(samples)
    engine = Engine([Detector("score", scorer, ("*",), hop_s, on=np.inf, off=np.inf)])
    engine.add(stream)
    stream.backlog.mark(Mark(Break.EPOCH, rate_hz=rate_hz))
    length = max(1, round(_BLOCK_S * rate_hz))
    for first in range(0, len(samples), length):
        stream.backlog.put(Chunk(samples[first : first + length], first, 0, 0, 0.0))
    stream.backlog.mark(Mark(Break.END))
    while (report := engine.step(lambda: 0.0)).busy:
        for batch in report.batches.values():
            yield from ((start_sample, score) for _, start_sample, score in batch.scores)


def print_scores(paths: Sequence[str], scorer: Scorer, hop_s: float, *, as_json: bool) -> int:
    """Print the rows of all files to stdout as they come; returns the exit code, 1 if a file could not be scored."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        out.writerow(["path", "start_s", "end_s", "score"])
    failed = 0
    for path in paths:
        try:
            for row in score_file(path, scorer, hop_s):
                if as_json:
                    print(json.dumps(asdict(row)))
                else:
                    out.writerow([row.path, f"{row.start_s:.9g}", f"{row.end_s:.9g}", f"{row.score:.9g}"])
        except SourceError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0
