"""Blocks into backlogs: every count of every stream against the slow model, whatever comes and is taken meanwhile."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from block_model import Model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sequencer import STEPS, headers_of

import detectd.streams.intake
from detectd.dsp.audio import SampleFormat, encode
from detectd.streams.backlog import Break
from detectd.streams.intake import SILENCE_S, Admission, Arrival, Intake
from detectd.streams.wire import Flag, Header, Refusal, pack

ARRIVAL = Arrival(utc_ns=10**18, monotonic_s=5.0)


@dataclass
class Setup:
    """An intake, and all it has told."""

    intake: Intake
    began: list
    refused: Counter

    def take(self, *blocks, listened_s=0.0, local=False):
        self.intake.take([memoryview(block) for block in blocks], ARRIVAL, listened_s, local=local)

    def stream(self, stream_id="yard"):
        return self.intake.streams[stream_id]


def setup(admit=lambda *_: Admission(known=True), max_backlog_s=10.0):
    began, refused = [], Counter()
    made = Intake(admit, max_backlog_s, began.append, began.remove, lambda reason: refused.update([reason]))
    return Setup(made, began, refused)


def block(first, n=10, epoch=1, flags=0, **changes):
    return Header(flags, 1, 1, 8000, n, "yard", epoch, 0, first)._replace(**changes)


def value(epoch, index, channel):
    """What a sample says of its own place."""
    return (index * 7 + epoch * 1013 + channel * 331) % 65536 - 32768


def packed(header, damage=None):
    samples = np.array(
        [
            [value(header.epoch, header.first_sample + i, channel) / 32768 for channel in range(header.channels)]
            for i in range(header.n_frames)
        ],
        np.float32,
    ).reshape(header.n_frames, header.channels)
    if damage == "non-finite":
        samples[-1, 0] = np.nan
    bytes_ = bytearray(pack(header, encode(samples, SampleFormat(header.sample_format))))
    if damage == "crc":
        bytes_[-1] ^= 1
    return bytes(bytes_)


class Reader:
    """Takes samples out and keeps the index as the marks say."""

    def __init__(self, stream, channel):
        self.stream, self.channel = stream, channel
        self.at, self.epoch_of, self.scale = None, 0, 1.0
        self.taken, self.overrun_gaps, self.gaps = [], 0, 0
        self.kinds = Counter()

    def take(self, n):
        chunks, marks = self.stream.backlog.take(n)
        for chunk in chunks:
            assert chunk.first_sample == self.at
            numbers = np.rint(chunk.samples.astype(float) * self.scale * 32768).astype(int).tolist()
            self.taken += [(self.at + i, number) for i, number in enumerate(numbers)]
            self.at += len(chunk.samples)
        for mark in marks:
            self.kinds[mark.kind] += 1
            if mark.kind in {Break.EPOCH, Break.RESYNC}:
                self.at = mark.first_sample
            if mark.kind is Break.EPOCH:
                self.scale = mark.scale
            self.at += mark.n_samples
        return bool(chunks or marks)


@settings(max_examples=200)
@given(
    steps=STEPS,
    damages=st.lists(st.sampled_from([None, None, None, "crc", "non-finite"]), min_size=1, max_size=7),
    flags=st.lists(st.sampled_from([0, 0, 0, Flag.DISCONTINUITY, Flag.END]), min_size=1, max_size=5),
    takes=st.lists(st.integers(0, 80), min_size=1, max_size=5),
    channels=st.integers(1, 3),
    wanted=st.sets(st.integers(0, 2), min_size=1),
    max_backlog_s=st.sampled_from([0.3, 1.0, 100.0]),
)
def test_the_books_of_any_sequence_are_those_of_the_model(
    steps, damages, flags, takes, channels, wanted, max_backlog_s
):
    wanted = {channel for channel in wanted if channel < channels} or {0}
    ids = {c: "yard" if channels == 1 else f"yard/{c}" for c in wanted}
    told = setup(lambda stream_id, *_: Admission(known=stream_id in ids.values()), max_backlog_s)
    model, readers = Model(), {}
    for i, plain in enumerate(headers_of(steps)):
        damage = damages[i % len(damages)]
        header = plain._replace(
            channels=channels, sample_format=4, flags=flags[i % len(flags)] | (Flag.CRC if damage == "crc" else 0)
        )
        model.block(header, damage)
        told.take(packed(header, damage))
        for channel, stream_id in ids.items():
            stream = told.stream(stream_id)
            readers.setdefault(channel, Reader(stream, channel)).take(takes[i % len(takes)])
            books = stream.backlog.books()
            assert books.accepted == books.analysed + books.pending + books.overrun
            assert books.accepted == model.accepted
            assert stream.gap_samples == model.gap
            assert stream.resyncs == model.resyncs
            assert {reason: n for reason, n in stream.rejected.items() if n} == dict(model.rejected)
        assert told.refused == model.refused_blocks
    for channel, reader in readers.items():
        while reader.take(50):
            pass
        books = reader.stream.backlog.books()
        assert books.pending == 0
        assert books.analysed == len(reader.taken)
        assert books.overrun + books.analysed == model.accepted
        expected = [(index, value(epoch, index, channel)) for epoch, index in model.samples]
        # In order, nothing twice, nothing made up; and all of it where nothing was dropped.
        rest = iter(expected)
        assert all(sample in rest for sample in reader.taken)
        if not books.overrun:
            assert reader.taken == expected


def test_channels_become_streams():
    told = setup()
    told.take(packed(block(0, 4, channels=2)))
    assert [stream.id for stream in told.began] == ["yard/0", "yard/1"]
    for channel in (0, 1):
        backlog = told.stream(f"yard/{channel}").backlog
        _, (epoch,) = backlog.take(1)
        assert (epoch.kind, epoch.first_sample, epoch.rate_hz, epoch.scale) == (Break.EPOCH, 0, 8000, 2.0**-15)
        assert backlog.take(9)[0][0].samples.tolist() == [value(1, i, channel) for i in range(4)]


def test_a_stream_is_told_before_its_first_block_is_in():
    seen = []
    intake = Intake(
        lambda *_: Admission(known=True, mask_hz=(50.0,)),
        1.0,
        lambda stream: seen.append((stream.id, stream.mask_hz, stream.backlog.books().accepted)),
        lambda _: None,
        lambda _: None,
    )
    intake.take([memoryview(packed(block(0)))], ARRIVAL, 0.0)
    assert seen == [("yard", (50.0,), 0)]


def test_unknown_streams_are_counted_and_forgotten():
    told = setup(lambda stream_id, *_: Admission(known=stream_id == "yard"))
    told.take(packed(block(0, stream_id="other")), packed(block(0)))
    assert told.refused == {Refusal.UNKNOWN_STREAM: 1}
    assert list(told.intake.streams) == ["yard"]


def test_a_rate_too_low_is_counted_with_its_samples():
    told = setup(lambda _id, rate_hz, _local: Admission(known=True, rate_holds=rate_hz >= 4000))
    told.take(packed(block(0, 10, rate_hz=3999)))
    told.take(packed(block(10, 10, rate_hz=3999)))
    assert told.refused == {Refusal.RATE_TOO_LOW: 2}
    assert told.stream().rejected == {Refusal.RATE_TOO_LOW: 20}
    assert told.stream().backlog.books().accepted == 0
    told.take(packed(block(20, 10, epoch=2)))
    assert told.stream().backlog.books().accepted == 10


def test_garbage_is_counted_and_nothing_else_happens():
    told = setup()
    told.take(packed(block(0)))
    told.take(b"garbage", b"DAU1", b"", packed(block(10))[:-1])
    told.take(packed(block(10)))
    assert told.refused == {Refusal.MAGIC: 1, Refusal.TRUNCATED: 2}
    assert told.stream().backlog.books().accepted == 20
    assert told.stream().gap_samples == 0


def test_a_daemon_keeps_only_so_many_streams(monkeypatch):
    monkeypatch.setattr(detectd.streams.intake, "MAX_STREAMS", 3)
    told = setup()
    for name in "abcde":
        told.take(packed(block(0, stream_id=name)))
    assert told.refused == {Refusal.TOO_MANY_STREAMS: 2}
    assert list(told.intake.streams) == ["a", "b", "c"]
    # Those it keeps may begin anew, in another format too.
    told.take(packed(block(0, stream_id="a", epoch=2)), packed(block(0, stream_id="b", epoch=2, sample_format=4)))
    assert told.refused == {Refusal.TOO_MANY_STREAMS: 2}


def test_senders_do_not_mix_with_the_daemons_own_source_of_that_name():
    told = setup(lambda _id, _rate, local: Admission(known=local))
    told.take(packed(block(0)))
    told.take(packed(block(500)), local=True)
    told.take(packed(block(10)))
    assert told.refused == {Refusal.UNKNOWN_STREAM: 2}
    assert told.stream().backlog.books().accepted == 10


@pytest.mark.parametrize(("n_frames", "allowed_s"), [(800, SILENCE_S), (16_000, 4.0)])
def test_silence_ends_a_stream_after_2_s_or_two_blocks(n_frames, allowed_s):
    told = setup()
    told.take(packed(block(0, n_frames)), listened_s=100.0)
    stream = told.stream()
    told.intake.end_silent(100.0 + allowed_s - 0.01)
    assert stream.up
    told.intake.end_silent(100.0 + allowed_s)
    told.intake.end_silent(100.0 + allowed_s + 1)
    assert not stream.up
    marks = []
    while stream.backlog.ready:
        marks += stream.backlog.take(10**6)[1]
    assert [mark.kind for mark in marks] == [Break.EPOCH, Break.END]
    told.take(packed(block(n_frames, n_frames)), listened_s=110.0)
    assert stream.up
    assert stream.gap_samples == 0


def test_the_end_flag_ends_a_stream_after_its_samples():
    told = setup()
    told.take(packed(block(0, flags=Flag.END)))
    backlog = told.stream().backlog
    assert not told.stream().up
    assert [mark.kind for mark in backlog.take(1)[1]] == [Break.EPOCH]
    chunks, marks = backlog.take(100)
    assert sum(len(chunk.samples) for chunk in chunks) == 10
    assert [mark.kind for mark in marks] == [Break.END]


def test_times_are_the_senders_or_those_of_arrival():
    told = setup()
    told.take(packed(block(0, t_first_utc_ns=77)))
    told.take(packed(block(10)))
    backlog = told.stream().backlog
    backlog.take(1)
    first, second = backlog.take(100)[0]
    assert (first.utc_ns, first.utc_sample, second.utc_ns, second.utc_sample) == (77, 0, ARRIVAL.utc_ns, 10)
    assert first.arrived_s == ARRIVAL.monotonic_s
    assert told.stream().last_utc_ns == ARRIVAL.utc_ns + 9 * 125_000
    assert told.stream().end_sample == 20


def test_a_backlog_over_half_full_asks_its_sender_to_wait():
    told = setup(max_backlog_s=0.01)  # 80 samples
    told.take(packed(block(0, 40)))
    assert not told.intake.crowded
    told.take(packed(block(40, 1)))
    assert told.intake.crowded
    told.stream().backlog.take(100)
    told.stream().backlog.take(1)
    assert not told.intake.crowded


@pytest.mark.parametrize("first_sample", [2**63, 2**64 - 11])
def test_the_largest_indices_are_plain_numbers(first_sample):
    told = setup()
    told.take(packed(block(0)))
    told.take(packed(block(first_sample)))
    assert told.stream().resyncs == 1
    assert told.stream().end_sample == first_sample + 10


def test_channels_that_a_new_epoch_has_no_more_are_ended():
    told = setup()
    told.take(packed(block(0)))
    told.take(packed(block(0, epoch=2, channels=2)))
    assert not told.stream("yard").up
    assert told.stream("yard/1").up
    assert [mark.kind for mark in told.stream("yard").backlog.take(0)[1]] == [Break.EPOCH]
    assert [mark.kind for mark in told.stream("yard").backlog.take(99)[1]] == [Break.END]


def test_a_stream_that_another_source_has_is_refused_until_that_is_down():
    told = setup()
    told.take(packed(block(0, channels=2)))
    told.take(packed(block(0, epoch=9, stream_id="yard/0")))
    assert told.refused == {Refusal.TAKEN: 1}
    assert told.stream("yard/0").backlog.books().accepted == 10
    told.intake.end_silent(SILENCE_S)
    told.take(packed(block(0, epoch=10, stream_id="yard/0")))
    assert told.stream("yard/0").backlog.books().accepted == 20


def test_a_stream_silent_for_very_long_is_forgotten_after_the_promised_hour():
    told = setup()
    told.take(packed(block(0)))
    told.intake.end_silent(3600.0)
    assert list(told.intake.streams) == ["yard"]
    told.intake.end_silent(detectd.streams.intake.FORGET_S)
    assert not told.intake.streams
    assert not told.began
    told.take(packed(block(0, epoch=2)))
    assert told.stream().up


def test_a_forged_first_block_far_ahead_does_not_silence_the_stream():
    told = setup()
    told.take(packed(block(10**12)))
    for i in range(20):
        told.take(packed(block(10 * i)))
    assert told.stream().resyncs == 1
    assert told.refused == {Refusal.LATE: 9}


def test_one_message_takes_only_so_much_of_others_time():
    told = setup()
    empty = packed(block(0, n=0))
    told.take(empty * (detectd.streams.intake.MAX_BLOCKS + 5))
    assert told.refused == {Refusal.OVERSIZED: 1}


def test_what_waits_does_not_hold_a_large_message_in_memory():
    told = setup(lambda stream_id, *_: Admission(known=stream_id == "yard"))
    told.take(packed(block(0)), packed(block(0, n=8000, stream_id="other")))
    (chunk,), _ = told.stream().backlog.take(0)[0] or told.stream().backlog.take(99)
    assert chunk.samples.base.nbytes < 100


def test_breaks_without_samples_between_stay_few():
    told = setup()
    for epoch in range(50):
        told.take(packed(block(0, n=0, epoch=epoch)), packed(block(5, n=0, epoch=epoch, flags=Flag.DISCONTINUITY)))
        told.take(packed(block(5, n=0, epoch=epoch, flags=Flag.END)))
    assert len(told.stream().backlog.take(0)[1]) <= 4
