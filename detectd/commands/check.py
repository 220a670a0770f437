"""What a configuration amounts to: `detectd check`."""

from typing import Any

from detectd.config.config import Config, DeviceStream
from detectd.service.plan import notices, open_detectors
from detectd.service.sources import check_source


def plan_of(config: Config) -> dict[str, Any]:
    """Open everything that a configuration names, and describe what would run.

    Raises
    ------
    ConfigError, BundleError
    """
    for stream in config.streams:
        check_source(config.path, stream)
    detectors = open_detectors(config)
    return {
        "config": str(config.path),
        "ingest": [*config.ingest.bind, *config.ingest.connect],
        "events": config.publish.events,
        "metrics": f"http://{config.metrics.host}:{config.metrics.port}/metrics",
        "streams": [{"id": stream.id, "source": stream.source} for stream in config.streams],
        "detectors": [
            {
                "name": detector.name,
                "bundle": detector.scorer.bundle.ident,
                "kind": detector.scorer.bundle.manifest.kind,
                "label": detector.scorer.bundle.manifest.label,
                "streams": list(detector.streams),
                "window_s": detector.specs[0].window_s,
                "hop_s": detector.hop_s,
                "band_hz": [detector.specs[0].band_low_hz, detector.specs[0].band_high_hz],
                "min_rate_hz": detector.min_rate_hz,
                "on": detector.on,
                "off": detector.off,
                "alarm_on": detector.alarm_on,
            }
            for detector in detectors
        ],
        "notices": [*_device_notices(config), *(notice for detector in detectors for notice in notices(detector))],
    }


def _device_notices(config: Config) -> list[str]:
    devices = [stream for stream in config.streams if isinstance(stream, DeviceStream)]
    if not devices:
        return []
    # Loads PortAudio, which looks at every device there is.
    from detectd.capture.survey import survey  # noqa: PLC0415

    return survey(devices)


def plan_text(plan: dict[str, Any]) -> str:
    """A plan for a person's eyes."""
    lines = [
        f"{plan['config']}: good",
        f"audio in    {' '.join(plan['ingest'])}",
        f"events out  {plan['events']}",
        f"metrics     {plan['metrics']}",
    ]
    lines += [f"stream      {stream['id']} ({stream['source']})" for stream in plan["streams"]]
    for detector in plan["detectors"]:
        low, high = detector["band_hz"]
        windows = f"windows of {detector['window_s']:g} s every {detector['hop_s']:g} s"
        lines += [
            f"detector    {detector['name']}: {detector['label']} on {' '.join(detector['streams'])}",
            f"            {detector['kind']} bundle {detector['bundle']}, {low:g} to {high:g} Hz, {windows}",
            f"            alarm on {detector['alarm_on']}: on {detector['on']:.4g}, off {detector['off']:.4g}",
            f"            streams need at least {detector['min_rate_hz']} samples/s",
        ]
    return "\n".join(lines + [f"note        {notice}" for notice in plan["notices"]])
