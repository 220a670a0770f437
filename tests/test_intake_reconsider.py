"""The configuration changes while blocks come in: what is wanted still goes on to the sample."""

import numpy as np
import pytest

from detectd.dsp.audio import SampleFormat, encode
from detectd.streams.backlog import Break
from detectd.streams.intake import FORGET_S, Admission, Arrival, Intake
from detectd.streams.wire import Header, Refusal, pack

RATE_HZ = 1000


class Desk:
    """An intake, a table of what it admits, and senders that count on."""

    def __init__(self, admitted):
        self.admitted, self.gone, self.refused = dict(admitted), [], []
        self.at = {}
        self.intake = Intake(self.admit, 10.0, lambda _: None, lambda s: self.gone.append(s.id), self.refused.append)

    def admit(self, stream_id, rate_hz, local):
        return self.admitted.get((stream_id, local), Admission(known=False))

    def send(self, source_id, channels=1, *, local=False, n=100, epoch=1, listened_s=0.0):
        first = self.at.get(source_id, 0)
        self.at[source_id] = first + n
        header = Header(0, SampleFormat.S16, channels, RATE_HZ, n, source_id, epoch, 0, first)
        samples = np.repeat(np.arange(first, first + n)[:, None] / 32768, channels, axis=1).astype(np.float32)
        message = memoryview(pack(header, encode(samples, SampleFormat.S16)))
        self.intake.take([message], Arrival(0, 0.0), listened_s, local=local)

    def reconsider(self, admitted, *, max_backlog_s=10.0, expected=()):
        self.admitted = dict(admitted)
        self.intake.reconsider(self.admit, max_backlog_s, expected)

    def drained(self, stream_id):
        """Samples as the numbers they were sent as, and the kinds of the marks."""
        samples, kinds = [], []
        backlog = self.intake.streams[stream_id].backlog
        while backlog.ready:
            chunks, marks = backlog.take(10**9)
            samples += [
                n for chunk in chunks for n in range(chunk.first_sample, chunk.first_sample + len(chunk.samples))
            ]
            assert samples[len(samples) - sum(len(c.samples) for c in chunks) :] == [
                int(v) for chunk in chunks for v in chunk.samples
            ]
            kinds += [mark.kind for mark in marks]
        return samples, kinds


def wanted(*ids, **more):
    return {(i, False): Admission(known=True) for i in ids} | {
        (i, True): Admission(known=True) for i in more.get("local", ())
    }


def test_who_is_wanted_still_loses_nothing():
    desk = Desk(wanted("yard", "shed"))
    for round_ in range(20):
        desk.send("yard")
        if round_ % 3 == 0:
            desk.reconsider(wanted("yard", *(["shed"] if round_ % 2 else [])))
    assert desk.drained("yard") == (list(range(2000)), [Break.EPOCH])
    assert not desk.refused


def test_who_is_wanted_no_more_is_forgotten_and_refused():
    desk = Desk(wanted("yard", "shed"))
    desk.send("yard")
    desk.send("shed")
    desk.reconsider(wanted("shed"))
    assert desk.gone == ["yard"]
    assert list(desk.intake.streams) == ["shed"]
    desk.send("yard")
    assert desk.refused == [Refusal.UNKNOWN_STREAM]
    desk.reconsider(wanted("yard", "shed"))
    desk.send("yard")
    assert desk.drained("yard")[0] == list(range(200, 300)), "from its next block on"
    assert desk.drained("shed")[0] == list(range(100))


def test_channels_come_and_go_within_an_epoch():
    desk = Desk(wanted("array/0"))
    desk.send("array", 3)
    desk.reconsider(wanted("array/0", "array/2"))
    desk.send("array", 3)
    desk.reconsider(wanted("array/2"))
    desk.send("array", 3)
    assert desk.gone == ["array/0"]
    assert desk.drained("array/2") == (list(range(100, 300)), [Break.EPOCH])


def test_a_channel_that_another_source_has_is_left_to_it():
    desk = Desk(wanted("array/0", "array/1"))
    desk.send("array", 2)
    desk.reconsider(wanted("array/0"))
    desk.reconsider(wanted("array/0", "array/1"))
    desk.reconsider(wanted("array/0"))
    desk.admitted = wanted("array/0", "array/1")
    desk.send("array/1")
    desk.reconsider(wanted("array/0", "array/1"))
    desk.send("array", 2)
    assert desk.drained("array/1")[0] == list(range(100))
    assert desk.drained("array/0")[0] == list(range(200))


def test_a_new_mask_begins_a_segment_and_loses_no_sample():
    desk = Desk(wanted("yard"))
    desk.send("yard")
    desk.reconsider({("yard", False): Admission(known=True, mask_hz=(50.0,))})
    desk.send("yard")
    assert desk.intake.streams["yard"].mask_hz == (50.0,)
    assert desk.drained("yard") == (list(range(200)), [Break.EPOCH, Break.GAP])
    assert desk.intake.streams["yard"].gap_samples == 0


def test_a_rate_that_holds_no_band_any_more_is_refused():
    desk = Desk(wanted("yard"))
    desk.send("yard")
    desk.reconsider({("yard", False): Admission(known=True, rate_holds=False)})
    assert not desk.intake.streams["yard"].up
    desk.send("yard")
    assert desk.refused == [Refusal.RATE_TOO_LOW]
    assert not desk.gone


def test_a_smaller_backlog_is_in_force_at_once():
    desk = Desk(wanted("yard"))
    desk.send("yard")
    desk.reconsider(wanted("yard"), max_backlog_s=0.15)
    desk.send("yard")
    assert desk.drained("yard")[0] == list(range(50, 200))


@pytest.mark.parametrize("heard", [False, True])
def test_own_streams_are_there_before_they_are_heard_and_stay_when_silent(heard):
    desk = Desk({})
    desk.reconsider(wanted(local=["desk"]), expected=["desk"])
    assert list(desk.intake.streams) == ["desk"]
    assert not desk.intake.streams["desk"].up
    if heard:
        desk.send("desk", local=True)
    desk.intake.end_silent(2 * FORGET_S)
    assert not desk.intake.streams["desk"].up
    assert list(desk.intake.streams) == ["desk"]
    desk.reconsider(wanted("desk"))
    assert not desk.intake.streams, "that a sender of this name would be welcome is another matter"
    assert desk.gone == ["desk"]


def test_a_stream_may_pass_from_the_network_to_the_daemon_itself():
    desk = Desk(wanted("yard"))
    desk.send("yard")
    desk.reconsider(wanted(local=["yard"]), expected=["yard"])
    desk.send("yard")
    assert desk.refused == [Refusal.UNKNOWN_STREAM]
    desk.send("yard", local=True, epoch=2)
    assert desk.drained("yard") == ([*range(100), *range(200, 300)], [Break.EPOCH, Break.END, Break.EPOCH])


@pytest.mark.parametrize("first", ["array", "array/1"])
def test_a_stream_may_pass_from_the_daemon_itself_to_a_sender_that_is_heard_already(first):
    desk = Desk(wanted("array/0", local=["array/1"]))
    desk.reconsider(desk.admitted, expected=["array/1"])
    for source_id in sorted(["array", "array/1"], key=lambda source_id: source_id != first):
        desk.send(source_id, 2 if source_id == "array" else 1, local=source_id != "array")
    desk.reconsider(wanted("array/0", "array/1"))
    desk.send("array", 2)
    assert desk.gone == ["array/1"]
    assert desk.drained("array/0")[0] == list(range(200))
    assert desk.drained("array/1") == (list(range(100, 200)), [Break.EPOCH])
