"""A bundle in words, for `detectd bundle inspect`."""

from __future__ import annotations

import json
from typing import Any

from detectd.bundles.bundle import Bundle
from detectd.bundles.manifest import View
from detectd.onnx_guard.graph import GraphSummary


def report(bundle: Bundle) -> str:
    """Lines of text that say what a bundle is, what it sees, what it costs and where it comes from."""
    manifest = bundle.manifest
    on, off, method = manifest.threshold.on, manifest.threshold.off, manifest.threshold.method
    lines = [
        f"{manifest.name}: {manifest.kind}, finds {manifest.label}",
        f"  made       {manifest.created}",
        f"  digest     {bundle.digest}",
        f"  threshold  on {on:.6g}, off {off:.6g} ({method})",
    ]
    for view in manifest.views:
        lines += _view(view, bundle.summaries[view.graph])
    for title in ("tail", "calibration", "evaluation", "training"):
        lines += _table(title, getattr(manifest, title))
    lines += ["  files"]
    lines += [f"    {name:<16}{entry.size:>10} bytes" for name, entry in sorted(manifest.files.items())]
    return "\n".join(lines)


def _view(view: View, summary: GraphSummary) -> list[str]:
    spec = view.spec
    frames = f"{spec.n_frames} frames of {spec.frame_s:g} s x " if spec.kind == "stft" else ""
    operators = ", ".join(f"{count} {name}" for name, count in summary.operators.items())
    return [
        f"  {view.name} ({spec.kind}, weight {view.weight:g})",
        f"    sees     {spec.window_s:g} s, {spec.band_low_hz:g}-{spec.band_high_hz:g} Hz: {frames}{spec.n_bins} bins",
        f"    needs    a stream of at least {spec.min_rate_hz} samples/s, analysed at {spec.analysis_rate_hz}",
        f"    graph    {view.graph}: {operators}",
        f"    costs    {summary.n_parameters} parameters, {summary.multiply_adds / 1e6:.3g} M multiply-adds a window",
    ]


def _table(title: str, table: dict[str, Any] | None) -> list[str]:
    if not table:
        return []
    rows = [f"    {json.dumps(key)[1:-1]}: {json.dumps(value)}" for key, value in sorted(table.items())]
    return [f"  {title}", *(row if len(row) <= 160 else f"{row[:157]}..." for row in rows)]
