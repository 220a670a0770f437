"""The backlog never invents, repeats or reorders a sample, drops the oldest first, and counts every one."""

import threading
from collections import deque

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detectd.streams.backlog import Backlog, Books, Break, Chunk, Mark


def chunk(first, n, arrived_s=0.0):
    """Samples that carry their own index."""
    return Chunk(np.arange(first, first + n), first, 0, 0, arrived_s)


def backlog_of(capacity):
    made = Backlog()
    made.capacity_samples = capacity
    return made


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 30)),
        st.tuples(st.just("gap"), st.integers(0, 30)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.just("resync"), st.integers(0, 500)),
        st.tuples(st.just("take"), st.integers(1, 40)),
    ),
    max_size=60,
)


KINDS = {"gap": Break.GAP, "end": Break.END, "resync": Break.RESYNC}


@settings(max_examples=300)
@given(steps=STEPS, capacity=st.integers(1, 60))
def test_samples_come_out_as_they_went_in(steps, capacity):
    """A slow queue of single samples and marks says what has to come out; its reader knows every index by the marks."""
    backlog, queue = backlog_of(capacity), deque()
    put_at = read_at = accepted = analysed = overrun = 0
    for what, n in [*steps, *[("take", 10**6)] * (2 * len(steps) + 1)]:
        if what == "put":
            backlog.put(chunk(put_at, n))
            queue.extend(range(put_at, put_at + n))
            put_at, accepted = put_at + n, accepted + n
            waiting = [entry for entry in queue if isinstance(entry, int)]
            for sample in waiting[: max(0, len(waiting) - capacity)]:
                queue.remove(sample)
                overrun += 1
        elif what == "take":
            chunks, marks = backlog.take(n)
            expected = []
            while queue and isinstance(queue[0], int) and len(expected) < n:
                expected.append(queue.popleft())
            # Dropped samples left a gap: it comes by itself, in front of what follows.
            if chunks or not marks:
                assert [int(i) for c in chunks for i in c.samples] == expected
            else:
                queue.extendleft(reversed(expected))
            for c in chunks:
                assert c.first_sample == read_at
                assert c.samples[0] == read_at
                read_at += len(c.samples)
            analysed += sum(len(c.samples) for c in chunks)
            for mark in marks:
                read_at = mark.first_sample if mark.kind is Break.RESYNC else read_at + mark.n_samples
            kinds = [mark.kind for mark in marks if mark.kind is not Break.GAP]
            # Of breaks with nothing between them fewer may come out, in their order; one that resets does not vanish.
            passed = []
            while marks and queue and isinstance(queue[0], Break):
                passed.append(queue.popleft())
            rest = iter(passed)
            assert all(kind in rest for kind in kinds)
            assert bool(kinds) == any(kind is not Break.GAP for kind in passed)
            assert len(marks) <= 4 or overrun
        else:
            first_sample = put_at + 10**6 + n if what == "resync" else 0
            backlog.mark(Mark(KINDS[what], n if what == "gap" else 0, first_sample))
            queue.append(KINDS[what])
            put_at = first_sample or put_at + (n if what == "gap" else 0)
        books = backlog.books()
        assert books == Books(accepted, analysed, accepted - analysed - overrun, overrun)
        assert books.pending <= capacity
        assert backlog.ready or not queue
    assert not queue
    assert not backlog.ready
    assert read_at == put_at


def test_the_oldest_are_dropped_and_leave_a_gap():
    backlog = backlog_of(10)
    backlog.put(chunk(0, 8, arrived_s=1.0))
    backlog.put(chunk(8, 8, arrived_s=2.0))
    assert backlog.books() == Books(16, 0, 10, 6)
    assert backlog.fill == 1.0
    assert backlog.oldest_arrival_s() == 1.0
    assert backlog.take(100) == ([], [Mark(Break.GAP, 6)])
    chunks, marks = backlog.take(3)
    assert [c.samples.tolist() for c in chunks] == [[6, 7], [8]]
    assert not marks
    assert backlog.oldest_arrival_s() == 2.0
    assert [c.samples.tolist() for c in backlog.take(100)[0]] == [list(range(9, 16))]
    assert backlog.oldest_arrival_s() is None


def test_a_chunk_larger_than_the_backlog_keeps_its_end():
    backlog = backlog_of(10)
    backlog.put(chunk(0, 25))
    assert backlog.take(99)[1] == [Mark(Break.GAP, 15)]
    assert backlog.take(99)[0][0].samples.tolist() == list(range(15, 25))


def test_marks_keep_their_place_when_samples_around_them_are_dropped():
    backlog = backlog_of(10)
    backlog.mark(Mark(Break.EPOCH, 0, 0, 8000))
    backlog.put(chunk(0, 5))
    backlog.mark(Mark(Break.END))
    backlog.put(chunk(5, 5))
    backlog.mark(Mark(Break.GAP, 7))
    backlog.put(chunk(17, 9))
    chunks, marks = backlog.take(99)
    assert not chunks
    assert marks == [Mark(Break.EPOCH, 0, 0, 8000), Mark(Break.GAP, 5), Mark(Break.END), Mark(Break.GAP, 4)]
    assert [c.first_sample for c in backlog.take(99)[0]] == [9]
    assert backlog.take(99)[0][0].first_sample == 17


def test_there_is_nothing_to_take_until_enough_waits():
    backlog = backlog_of(100)
    backlog.wanted_samples = 10
    assert not backlog.ready
    backlog.put(chunk(0, 9))
    assert not backlog.ready
    backlog.put(chunk(9, 1))
    assert backlog.ready
    backlog.take(99)
    backlog.mark(Mark(Break.END))
    assert backlog.ready


def test_two_threads_lose_nothing():
    """One writes while the other reads; every sample comes out once, in order, or is counted as overrun."""
    backlog, taken, lost = backlog_of(500), [], 0
    writer = threading.Thread(target=lambda: [backlog.put(chunk(7 * i, 7)) for i in range(3000)])
    writer.start()
    while writer.is_alive() or backlog.ready:
        chunks, marks = backlog.take(64)
        taken += [c.samples for c in chunks]
        lost += sum(mark.n_samples for mark in marks)
        books = backlog.books()
        assert books.accepted == books.analysed + books.pending + books.overrun
    found = np.concatenate(taken)
    assert (np.diff(found) > 0).all()
    assert len(found) + lost == 21000
    assert backlog.books() == Books(21000, len(found), 0, lost)
