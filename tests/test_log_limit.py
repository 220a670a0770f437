"""The limiter's laws: nothing vanishes uncounted, whatever repeats, and little of it is written."""

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from detectd.monitor.limit import Limiter

WINDOW_S = 60.0
MOST = 3
arrivals = st.lists(st.tuples(st.floats(0, 40), st.sampled_from("abc")), max_size=200)


def played(pauses_and_kinds, limiter, check=lambda _: None):
    """Feed a limiter; returns what passed as (time, kind), and what it told of repetitions."""
    now_s, passed, told = 0.0, [], []
    for pause_s, kind in pauses_and_kinds:
        now_s += pause_s
        told += limiter.closed(now_s)
        if limiter.passes(kind, now_s, MOST):
            passed.append((now_s, kind))
        check(limiter)
    told += limiter.finish(now_s)
    return passed, told


@given(arrivals)
def test_everything_is_written_or_counted(lines):
    passed, told = played(lines, Limiter(WINDOW_S))
    accounted = Counter(kind for _, kind in passed)
    for repeated in told:
        accounted[repeated.kind] += repeated.n
    assert accounted == Counter(kind for _, kind in lines)


@given(arrivals)
def test_never_more_than_a_few_of_a_kind_in_a_window(lines):
    passed, told = played(lines, Limiter(WINDOW_S))
    times = defaultdict(list)
    for at_s, kind in passed:
        times[kind].append(at_s)
    # Windows open with a line: any stretch of one window's length touches two of them at most.
    for at_s in times.values():
        for first_s in at_s:
            assert sum(first_s <= other_s < first_s + WINDOW_S for other_s in at_s) <= 2 * MOST
    assert all(repeated.n > 0 and 0 <= repeated.within_s <= WINDOW_S for repeated in told)


def test_what_nobody_asked_for_yet_is_one_sum():
    limiter = Limiter(WINDOW_S)
    for minute in range(3):
        for _ in range(10):
            limiter.passes("lost", minute * WINDOW_S, MOST)
    assert [(repeated.n, repeated.within_s) for repeated in limiter.closed(3 * WINDOW_S)] == [(3 * (10 - MOST), 180)]


@given(arrivals)
def test_what_is_rare_is_never_held_back(lines):
    limiter = Limiter(WINDOW_S)
    now_s = 0.0
    for pause_s, kind in lines:
        now_s += pause_s + WINDOW_S / MOST
        assert limiter.passes(kind, now_s, MOST)


@given(arrivals)
def test_one_kind_is_not_held_back_for_another(lines):
    alone = [(at_s, kind) for at_s, kind in played(lines, Limiter(WINDOW_S))[0] if kind == "a"]
    now_s, only_a = 0.0, []
    limiter = Limiter(WINDOW_S)
    for pause_s, kind in lines:
        now_s += pause_s
        if kind == "a" and limiter.passes(kind, now_s, MOST):
            only_a.append((now_s, kind))
    assert alone == only_a


@given(st.lists(st.tuples(st.floats(0, 1), st.text(max_size=3)), max_size=300))
def test_memory_is_bounded_by_kinds(lines):
    def check(limiter):
        assert len(limiter._kinds) <= 5
        assert len(limiter._over) <= 5

    passed, told = played(lines, Limiter(WINDOW_S, most_kinds=4), check)
    assert len(passed) + sum(repeated.n for repeated in told) == len(lines)


def test_a_storm_is_a_few_lines_and_one_that_says_how_many_more():
    limiter = Limiter(WINDOW_S)
    passed = sum(limiter.passes("lost", second * 0.1, MOST) for second in range(600))
    assert passed == MOST
    assert list(limiter.closed(59.9)) == []
    (repeated,) = limiter.closed(60.0)
    assert (repeated.kind, repeated.n, repeated.within_s) == ("lost", 600 - MOST, 60.0)
    assert list(limiter.closed(61.0)) == []
