"""The analysis audio and the features that detectors ask for, each there once for all streams and detectors."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from detectd.dsp.features import AnalysisAudio, Features
from detectd.dsp.spec import FeatureSpec


@dataclass(slots=True)
class Segment:
    """A stream's audio from one sample on without a break, in the forms that its detectors ask for.

    Attributes
    ----------
    slots : dict
        The stream's place in each analysis audio.
    views : dict
        Features by their spec, with the stream's place in them.
    """

    first_sample: int
    slots: dict[AnalysisAudio, int] = field(default_factory=dict[AnalysisAudio, int])
    views: dict[FeatureSpec, tuple[Features, int]] = field(default_factory=dict[FeatureSpec, tuple[Features, int]])

    def close(self) -> None:
        """Give all places back."""
        for audio, slot in self.slots.items():
            audio.remove(slot)
        self.slots, self.views = {}, {}

    def restart(self, first_sample: int, mask_hz: Sequence[float]) -> None:
        """Begin again after a break: nothing before it counts."""
        self.first_sample = first_sample
        for audio, slot in self.slots.items():
            audio.reset(slot)
        for features, slot in self.views.values():
            features.begin(slot, mask_hz)

    def keep_only(self, specs: Collection[FeatureSpec]) -> None:
        """Forget what nobody looks at any more."""
        self.views = {spec: view for spec, view in self.views.items() if spec in specs}
        used = {features.source for features, _ in self.views.values()}
        for audio, slot in list(self.slots.items()):
            if audio not in used:
                audio.remove(slot)
                del self.slots[audio]


class Bank:
    """All analysis audio and features in use."""

    def __init__(self) -> None:
        self._audio: dict[tuple[int, float], AnalysisAudio] = {}
        self._features: dict[FeatureSpec, Features] = {}

    def need(self, specs: Collection[FeatureSpec]) -> None:
        """Have all of these; what is there already goes on."""
        for key in {_key(spec) for spec in specs}:
            keep_s = max(spec.window_s for spec in specs if _key(spec) == key)
            if key in self._audio:
                self._audio[key].extend(keep_s)
            else:
                self._audio[key] = AnalysisAudio(*key, keep_s=keep_s)
        for spec in specs:
            if spec not in self._features:
                self._features[spec] = Features(spec, self._audio[_key(spec)])

    def keep_only(self, specs: Collection[FeatureSpec]) -> None:
        """Drop all but these; no stream may have a place in the others."""
        self._features = {spec: self._features[spec] for spec in specs}
        self._audio = {key: self._audio[key] for key in {_key(spec) for spec in specs}}

    def holds(self, segment: Segment, specs: Sequence[FeatureSpec]) -> bool:
        """Whether a segment has the audio that these are made of."""
        return all(self._features[spec].source in segment.slots for spec in specs)

    def equip(
        self, segment: Segment, specs: Sequence[FeatureSpec], rate_hz: int, mask_hz: Sequence[float]
    ) -> list[tuple[Features, int]]:
        """Give a segment these features, where it has them not; returns its place in each."""
        for spec in specs:
            if spec in segment.views:
                continue
            features = self._features[spec]
            if features.source not in segment.slots:
                segment.slots[features.source] = features.source.add(rate_hz)
            slot = segment.slots[features.source]
            features.begin(slot, mask_hz)
            features.update([slot])  # now, before new audio takes the place of what is remembered
            segment.views[spec] = (features, slot)
        return [segment.views[spec] for spec in specs]


def _key(spec: FeatureSpec) -> tuple[int, float]:
    return spec.analysis_rate_hz, spec.band_high_hz
