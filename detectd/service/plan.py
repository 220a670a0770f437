"""From configuration to detectors: bundles opened, thresholds settled."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detectd.bundles.scoring import Scorer, open_detector_bundle
from detectd.config.config import Config, DetectorConfig, FileStream
from detectd.dsp.features import common_hops
from detectd.engine.watch import Detector
from detectd.errors import BundleError, ConfigError, SourceError
from detectd.send import AudioFile


def open_detectors(config: Config, current: Sequence[Detector] = ()) -> list[Detector]:
    """Open every detector's bundle.

    Parameters
    ----------
    current : sequence of Detector
        Those at work. One whose bundle and settings are as before is returned itself; a bundle that is loaded already
        is checked like any other, and then the loaded one is used.

    Raises
    ------
    BundleError
        If a bundle is missing or cannot be trusted.
    ConfigError
        If a detector asks its bundle for what it has not.
    """
    scorers = {detector.scorer.bundle.digest: detector.scorer for detector in current}
    detectors = [_open(config, detector, scorers) for detector in config.detectors]
    _check_file_rates(config, detectors)
    return [next((known for known in current if known == detector), detector) for detector in detectors]


def _check_file_rates(config: Config, detectors: Sequence[Detector]) -> None:
    """Refuse a file stream that none of the detectors watching it could hear.

    Raises
    ------
    ConfigError
    """
    for stream in config.streams:
        if not isinstance(stream, FileStream):
            continue
        rate_hz = file_of(config.path, stream).rate_hz
        needed_hz = lowest_rate_hz(detectors, stream.id)
        if rate_hz < needed_hz:
            raise ConfigError(
                f"{config.path}: stream '{stream.id}': {stream.path} has {rate_hz} samples/s, "
                f"its detectors need at least {needed_hz}"
            )


def lowest_rate_hz(detectors: Sequence[Detector], stream_id: str) -> int:
    """The lowest rate that one of a stream's detectors can use; 0 where none watches it."""
    return min((detector.min_rate_hz for detector in detectors if detector.watches(stream_id)), default=0)


def file_of(path: Path, stream: FileStream) -> AudioFile:
    """The file that a stream plays.

    Raises
    ------
    ConfigError
        Naming the configuration `path`, the stream and the key, if it cannot be played.
    """
    try:
        return AudioFile(stream.path)
    except SourceError as error:
        raise ConfigError(f"{path}: stream '{stream.id}': path: {error}") from error


def notices(detector: Detector) -> list[str]:
    """What a person should know about a detector's settings."""
    spec = detector.specs[0]
    hop_s = common_hops(detector.specs, detector.hop_s)[0] * spec.frame_hop_samples / spec.analysis_rate_hz
    if abs(hop_s - detector.hop_s) < 1e-9:
        return []
    return [f"detector '{detector.name}': hop_s = {detector.hop_s:g} is rounded to {hop_s:g}, the bundle's grid"]


def _open(config: Config, settings: DetectorConfig, scorers: Mapping[str, Scorer]) -> Detector:
    where = f"{config.path}: detector '{settings.name}'"
    try:
        scorer = open_detector_bundle(settings.bundle)
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from error
    scorer = scorers.get(scorer.bundle.digest, scorer)
    threshold = scorer.bundle.manifest.threshold
    if settings.false_alarms_per_day is not None:
        raise ConfigError(
            f"{where}: false_alarms_per_day needs a tail model, and bundle {scorer.bundle.ident} has none; "
            f"expected threshold, or neither (the bundle's own, {threshold.on:g})"
        )
    on = threshold.on if settings.threshold is None else settings.threshold
    return Detector(
        name=settings.name,
        scorer=scorer,
        streams=settings.streams,
        hop_s=settings.hop_s,
        on=on,
        off=threshold.off + (on - threshold.on),
        alarm_on=settings.alarm_on,
        min_duration_s=settings.min_duration_s,
        hold_s=settings.hold_s,
    )
