"""detectd-train: the command line. Parses, calls, prints; everything else is elsewhere."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from detectd.dsp.synth import Signature, random_signature
from detectd.errors import DetectdError
from training.corpus import Recipe, write_corpus

if TYPE_CHECKING:
    from training.binary import BinaryRequest
    from training.learn import Learnt


class _Commands(click.Group):
    """Prints what is the user's to mend as one line, with its exit code; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DetectdError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("stopped before there was anything to keep; nothing was written", err=True)
            ctx.exit(130)


@click.group(cls=_Commands)
@click.version_option(package_name="detectd")
def main() -> None:
    """Train detectors for detectd from recordings."""


@main.group()
def fit() -> None:
    """Train a detector and write its bundle."""


def _band(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        low, high = map(float, value.split(":"))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected LO:HI in Hz, such as 10:990") from None
    return low, high


def _signature(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Signature | None:
    if value is None:
        return None
    try:
        return Signature(tuple(map(float, value.split(","))))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected frequencies in Hz, such as 110,220.5") from None


@fit.command()
@click.option(
    "--positive",
    "positives",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Clips of the target: a folder, an audio file or a CSV (path, start_s, end_s, label). Repeats.",
)
@click.option("--negative", "negatives", multiple=True, metavar="PATH", help="Clips of anything else. Repeats.")
@click.option(
    "--background",
    "backgrounds",
    multiple=True,
    metavar="PATH",
    help="What the microphone hears without the target; here one more negative. Repeats.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle to write: NAME.detectd.")
@click.option(
    "--backbone",
    type=click.Choice(["auto", "spec-cnn", "lenet"]),
    default="auto",
    show_default=True,
    help="auto is the paper's method, spec-cnn.",
)
@click.option("--label", help="Name of the target in events; else the CSV's, else NAME.")
@click.option("--window", "window_s", type=float, help="Seconds that one score looks at; else chosen from the clips.")
@click.option(
    "--band",
    "band_hz",
    callback=_band,
    metavar="LO:HI",
    help="Frequencies looked at, in Hz; else chosen from the clips.",
)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(2, 10_000), default=20, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def binary(epochs: int, batch_size: int, seed: int, as_json: bool, **request: Any) -> None:
    """Train on clips with and without the target.

    \b
    detectd-train fit binary --positive pump/ --negative yard/ --out pump.detectd

    Whole recordings are held out to choose epoch and threshold. Ctrl-C ends training early and keeps the best so far.
    """
    if not request["negatives"] and not request["backgrounds"]:
        raise DetectdError("fit binary: give --negative or --background: clips without the target")
    binary_module = _training_module()
    options = binary_module.FitOptions(epochs=epochs, batch_size=batch_size, seed=seed)
    wanted: BinaryRequest = binary_module.BinaryRequest(options=options, **request)
    learnt: Learnt = binary_module.fit_binary(wanted, lambda line: click.echo(line, err=True))
    click.echo(json.dumps(_summary(learnt), indent=2) if as_json else _text(learnt))


def _training_module() -> Any:
    try:
        # Imported here: torch takes seconds, and `synth` and `--help` do not need it.
        from training import binary as module
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "onnx"}:
            raise
        raise DetectdError(f"training needs {error.name}; install it with: pip install 'detectd[train]'") from None
    return module


def _summary(learnt: "Learnt") -> dict[str, Any]:
    bundle = learnt.bundle
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "ident": bundle.ident,
        "digest": bundle.digest,
        "label": manifest.label,
        "threshold": {"on": manifest.threshold.on, "off": manifest.threshold.off},
        "held_out": asdict(learnt.figures),
        "template_without_network": asdict(learnt.baseline),
        "features": manifest.views[0].spec.to_dict(),
        "training": manifest.training,
    }


def _text(learnt: "Learnt") -> str:
    manifest = learnt.bundle.manifest
    trained, figures, baseline = manifest.training, learnt.figures, learnt.baseline
    clips, recordings = trained["clips"], trained["recordings"]
    spec = manifest.views[0].spec
    return f"""\
{learnt.bundle.path}: {manifest.label!r}, {trained["backbone"]}, digest {learnt.bundle.digest[:12]}
  learnt from  {clips["positive"]} positive and {clips["negative"]} negative clips \
({recordings["positive"]} and {recordings["negative"]} recordings)
  looks at     {spec.band_low_hz:g}-{spec.band_high_hz:g} Hz, {spec.window_s:g} s at a time; \
streams need {spec.min_rate_hz} samples/s or more
  held out     {figures.n_positive} positive and {figures.n_negative} negative clips: accuracy {figures.accuracy:.3f}, \
AUC {figures.auc:.4f}; {figures.true_positive_rate:.1%} found, {figures.false_positive_rate:.1%} false alarms
  baseline     template without a network: accuracy {baseline.accuracy:.3f}, AUC {baseline.auc:.4f}
  threshold    on {manifest.threshold.on:.4g}, off {manifest.threshold.off:.4g}"""


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tones-hz",
    "signature",
    callback=_signature,
    metavar="HZ,HZ,...",
    help="The target's tones; else drawn with --tones and --seed.",
)
@click.option("--tones", "n_tones", type=click.IntRange(1, 10), default=5, show_default=True, help="How many to draw.")
@click.option("--snr-db", type=float, default=-13.0, show_default=True, help="All tones over the noise in 0-1000 Hz.")
@click.option(
    "--clips", "n_clips", type=click.IntRange(2), default=500, show_default=True, help="Half of them positive."
)
@click.option(
    "--duration", "duration_s", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds."
)
@click.option(
    "--background",
    "background_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds of noise alone besides.",
)
@click.option("--rate", "rate_hz", type=click.IntRange(8000, 192_000), default=44_100, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def synth(out: Path, signature: Signature | None, n_tones: int, as_json: bool, seed: int, **recipe: Any) -> None:
    """Write a corpus after the paper: OUT/positive, OUT/negative, OUT/background and OUT/manifest.csv.

    The positives hold the target's tones with new phases each, the negatives other signatures of 1 to 10 tones (one in
    five: noise alone), all in white noise. For a test set give the same --tones-hz and another --seed.
    """
    signature = signature or random_signature(n_tones, np.random.default_rng([seed, 1]))
    counts = write_corpus(out, Recipe(signature=signature, seed=seed, **recipe))
    if as_json:
        click.echo(json.dumps({"out": str(out), "tones_hz": signature.tones_hz, "clips": counts}, indent=2))
    else:
        tones = ",".join(f"{tone:.3f}" for tone in signature.tones_hz)
        click.echo(f"{out}: {', '.join(f'{count} {name}' for name, count in counts.items())}; --tones-hz {tones}")


if __name__ == "__main__":
    main()
