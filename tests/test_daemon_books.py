"""Every sample accounted for: the daemon's books against those of its senders, and what a break does to an event.

The oracle is the sender's own: what it did, it also wrote down, by the rules of docs/protocol.md.
"""

import collections
import threading

import numpy as np
import pytest
import zmq
from daemon_process import config, running, until
from plain_wire import CRC, DISCONTINUITY, END, F32, FORMATS, Push, Source, Subscriber
from sounds import recording

RATE_HZ = 8000
HOUR_S = 3600


@pytest.fixture(scope="module")
def remote():
    """A PUB socket that the daemon subscribes to, as a sender far away would have; XPUB says when it has."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as xpub:
        xpub.linger, xpub.rcvtimeo, xpub.sndhwm = 0, 20_000, 0
        port = xpub.bind_to_random_port("tcp://127.0.0.1")
        yield xpub, f"tcp://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, remote):
    xpub, endpoint = remote
    text = config('[[stream]]\nid = "*"\nsource = "zmq"\n', connect=[endpoint])
    with running(tmp_path_factory.mktemp("daemon"), text) as process:
        assert xpub.recv() == b"\x01"
        yield process


@pytest.fixture(scope="module")
def events(daemon):
    with Subscriber(daemon.events) as subscriber:
        yield subscriber


class Oracle:
    """A sender that does all that the rules speak of, and keeps the books the daemon should come to.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source, rng):
        self.source = source
        self.rng = rng
        self.accepted = self.gap = self.resyncs = 0
        self.rejected = collections.Counter()
        self.refused_blocks = collections.Counter()
        self._doings = [self.follow_on] * 4
        self._doings += [self.lose, self.repeat, self.come_late, self.overlap, self.break_crc, self.mark, self.jump]
        self._doings += [self.begin_anew, self.send_of_old_epoch, self.change_rate, self.send_nothing]
        self._doings += [self.send_nan] * (source.sample_format == F32)
        self._forget()
        self._old_epoch = None

    def blocks(self, n):
        yield self.follow_on()
        for _ in range(n):
            block = self.rng.choice(self._doings)()
            if block is not None:
                yield block
        # However it stood before, the last block is plain: nothing after it is lost.
        yield self.follow_on()

    def follow_on(self, flags=0):
        sound = self._sound()
        self._last = (self.source.position, sound)
        self.accepted += len(sound)
        return self.source.next(sound, flags | self.rng.choice([0, CRC]))

    def lose(self):
        n_lost = int(self.rng.integers(1, RATE_HZ))
        self._hole = (self.source.position, n_lost)
        self.source.position += n_lost
        self.gap += n_lost
        return self.follow_on()

    def repeat(self):
        if self._last is None:
            return None
        first_sample, sound = self._last
        return self._refused("duplicate", sound, first_sample)

    def come_late(self):
        if self._hole is None:
            return None
        first_sample, n_lost = self._hole
        return self._refused("late", self._sound()[:n_lost], first_sample)

    def overlap(self):
        if self._last is None:
            return None
        n_known = int(self.rng.integers(1, len(self._last[1]) + 1))
        sound = self._sound()
        both = np.concatenate([self._last[1][-n_known:], sound])
        self.rejected["late"] += n_known
        self.accepted += len(sound)
        block = self.source.block(both, self.source.position - n_known)
        self._last = (self.source.position, sound)
        self.source.position += len(sound)
        return block

    def break_crc(self):
        return self._spoilt("crc", flags=CRC, crc32=1)

    def send_nan(self):
        return self._spoilt("non-finite", spoil=self.rng.choice([np.nan, np.inf, -np.inf]))

    def mark(self):
        return self.follow_on(DISCONTINUITY)

    def jump(self):
        self.source.position += int((HOUR_S + 1 + self.rng.integers(HOUR_S)) * self.source.rate_hz)
        self.resyncs += 1
        self._forget()
        return self.follow_on()

    def begin_anew(self):
        self._old_epoch = self.source.epoch
        self.source.begin(position=int(self.rng.integers(1 << 40)))
        self._forget()
        return self.follow_on()

    def send_of_old_epoch(self):
        if self._old_epoch is None:
            return None
        return self._refused("late", self._sound(), int(self.rng.integers(1 << 40)), epoch=self._old_epoch)

    def change_rate(self):
        return self._refused("format-changed", self._sound(), self.source.position, rate_hz=2 * self.source.rate_hz)

    def send_nothing(self):
        return self.source.next(np.empty(0))

    def _sound(self):
        return 0.05 * self.rng.standard_normal(int(self.rng.integers(1, RATE_HZ // 4)))

    def _refused(self, reason, sound, first_sample, **changes):
        self.rejected[reason] += len(sound)
        self.refused_blocks[reason] += 1
        return self.source.block(sound, first_sample, **changes)

    def _spoilt(self, reason, flags=0, spoil=0.0, **changes):
        """What arrives and cannot be used still has its place."""
        sound = self._sound()
        sound[0] += spoil
        self.rejected[reason] += len(sound)
        self.refused_blocks[reason] += 1
        self._last = None  # its samples were not there before, and are no gap either
        return self.source.next(sound, flags, **changes)

    def _forget(self):
        self._last = self._hole = None


def test_the_books_are_those_of_the_senders_at_every_scrape(daemon, remote):
    rng = np.random.default_rng(7)
    senders = [
        Oracle(Source(f"oracle-{way}-{fmt}", RATE_HZ * (1 + fmt % 2), channels, fmt), rng)
        for way, channels in (("push", 1), ("push-wide", 2), ("pub", 1), ("pub-wide", 3))
        for fmt in FORMATS
    ]
    before = daemon.scrape().by_label("detectd_audio_rejected_blocks_total", "reason")
    queues = {sender: list(sender.blocks(60)) for sender in senders}
    pages, done = [], threading.Event()

    def watch():
        while not done.is_set():
            pages.append(daemon.scrape())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Push(daemon.ingest) as push:
            # Every message has a few blocks of a few senders, and is cut into parts in one of the two ways.
            for way in ("push", "pub"):
                for message in messages(rng, {s: q for s, q in queues.items() if way in s.source.stream}):
                    parts = [part for block in message for part in block]
                    whole = parts if rng.integers(2) else [b"".join(parts)]
                    if way == "push":
                        push.send_multipart(whole)
                    else:
                        remote[0].send_multipart([b"some/topic", *whole] if rng.integers(2) else whole)
        expected = {stream: sender for sender in senders for stream in sender.source.streams}
        until(lambda: heard(daemon.scrape(), expected) == books(expected))
        assert heard(daemon.scrape(), expected) == books(expected)
    finally:
        done.set()
        watcher.join()
    blocks = daemon.scrape().by_label("detectd_audio_rejected_blocks_total", "reason") - before
    assert blocks == sum((sender.refused_blocks for sender in senders), collections.Counter())
    assert set(blocks) == {"duplicate", "late", "crc", "non-finite", "format-changed"}  # every rule was put to the test
    assert len(pages) > 3
    assert [page.unbalanced() for page in pages if page.unbalanced()] == []


def messages(rng, queues):
    """The blocks of all queues, each queue's in order, a few a message."""
    while queues:
        chosen = rng.choice(list(queues), size=min(len(queues), int(rng.integers(1, 5))), replace=False)
        message = []
        for sender in chosen:
            n_blocks = int(rng.integers(1, 4))
            message += queues[sender][:n_blocks]
            del queues[sender][:n_blocks]
            if not queues[sender]:
                del queues[sender]
        yield message


def books(expected):
    return {
        stream: (sender.accepted, sender.gap, sender.resyncs, dict(sender.rejected))
        for stream, sender in expected.items()
    }


def heard(page, streams):
    return {
        stream: (
            page.audio("samples_total", stream),
            page.audio("gap_samples_total", stream),
            page.audio("resyncs_total", stream),
            {
                dict(labels)["reason"]: value
                for (name, *labels), value in page.items()
                if name == "detectd_audio_rejected_samples_total" and ("stream", stream) in labels
            },
        )
        for stream in streams
    }


def test_ten_late_blocks_in_a_row_set_the_index_anew(daemon):
    source = Source("yard-forged")
    noise = np.zeros(800)
    with Push(daemon.ingest) as push:
        push.send(source.next(noise))
        # One forged header, half an hour ahead, must not silence what follows for ever.
        push.send(source.block(noise, HOUR_S * RATE_HZ // 2))
        for _ in range(12):
            push.send(source.next(noise))
    assert until(lambda: daemon.scrape().audio("resyncs_total", "yard-forged") == 1)
    page = daemon.scrape()
    assert page.audio("rejected_samples_total", "yard-forged", reason="late") == 9 * 800
    assert page.audio("samples_total", "yard-forged") == (1 + 1 + 3) * 800


@pytest.mark.parametrize(
    ("lost_s", "reason", "kept_s"),
    [(0.5, "stream-lost", 6), (1.9, "stream-lost", 6), (2.1, "gap", 3)],
)
def test_an_event_survives_a_gap_up_to_the_hold(daemon, events, lost_s, reason, kept_s):
    source = Source(f"yard-gap-{lost_s}")
    sound, n_lost = recording(0, 6, 0), round(lost_s * RATE_HZ)
    with Push(daemon.ingest) as push:
        push.send(source.next(sound[: 3 * RATE_HZ]))
        source.position += n_lost
        push.send(source.next(sound[3 * RATE_HZ :], END))
    end = events.wait_for(source.stream, "end")[0]
    assert end["end_reason"] == reason
    assert end["start_sample"] == 0
    survived = kept_s == 6
    assert end["gap_samples"] == (n_lost if survived else 0)
    end_s = kept_s + (lost_s if survived else 0)
    # The last window that fits before the end, on the grid of hops.
    assert end_s - 0.25 < (end["end_sample"] + 1) / RATE_HZ <= end_s
    assert until(lambda: daemon.scrape().audio("gap_samples_total", source.stream) == n_lost)


def test_a_new_epoch_ends_an_event_and_counts_from_its_own_beginning(daemon, events):
    source = Source("yard-epoch")
    with Push(daemon.ingest) as push:
        push.send(source.next(recording(0, 3, 0)))
        source.begin(position=1_000_000)
        push.send(source.next(recording(0, 3, 0), END))
    first, second = events.wait_for(source.stream, "end", n=2)
    assert (first["end_reason"], first["start_sample"]) == ("gap", 0)
    assert (second["end_reason"], second["start_sample"]) == ("stream-lost", 1_000_000)
    assert first["event_id"] != second["event_id"]
    assert daemon.scrape().audio("gap_samples_total", source.stream) == 0


def test_channels_are_streams_of_their_own(daemon, events):
    left, right = recording(1, 3, 2, seed=1), recording(6, 0, 0, seed=2)
    source = Source("array", channels=2, sample_format=F32)
    with Push(daemon.ingest) as push:
        push.send(*source.blocks(np.stack([left, right], axis=1), length_s=1))
    events.wait_for("array/0", "end")
    assert until(lambda: daemon.scrape().audio("analysed_samples_total", "array/1") == len(right))
    assert not events.of("array/1")
