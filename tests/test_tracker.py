"""Events on strings: '#' is a hot window, '+' a warm one, '.' a quiet one; carets mark where an event begins and ends.

A window is 4 s long and they are 1 s apart, at one sample a second; an event's end is the last sample of its last
window, so a caret under window i means sample i + 3. `|n|` stands for n lost samples.
"""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectd.engine.tracker import EndReason, Rules, State, Tracker

WINDOW = 4
SCORES = {"#": 0.9, "+": 0.5, ".": 0.1}
ABSENT = {"#": 0.1, "+": 0.5, ".": 0.9}


def rules(**changes):
    return Rules(
        **{
            "on": 0.8,
            "off": 0.4,
            "alarm_on": "present",
            "min_duration_samples": 0,
            "hold_samples": 3,
            "window_samples": WINDOW,
            "update_samples": 10**9,
        }
        | changes
    )


def run(text, scores=SCORES, **changes):
    """All changes of a tracker, with what caused each: its place in the text."""
    tracker, now, told = Tracker(rules(**changes)), 0, []
    heard = 0  # samples up to here were in some window; after a gap the next begins behind them and the gap
    for place, (window, gap) in enumerate(re.findall(r"([#+.])|\|(\d+)\|", text)):
        if gap:
            now = heard = max(now, heard) + int(gap)
            change = tracker.gap(int(gap), now)
        else:
            change = tracker.push(scores[window], now)
            now, heard = now + 1, now + WINDOW
        if change:
            told.append((place, change))
    last = tracker.end(EndReason.SHUTDOWN)
    return told + ([(None, last)] if last else [])


def spans(told):
    return [(change.span.start_sample, change.span.end_sample) for _, change in told if change.state is State.END]


def carets(marks):
    """Spans marked by pairs of carets; one caret alone is both."""
    places = [match.start() for match in re.finditer(r"\^", marks)]
    alone = [match.start() for match in re.finditer(r"!", marks)]
    pairs = list(zip(places[::2], places[1::2], strict=True)) + [(place, place) for place in alone]
    return sorted((first, last + WINDOW - 1) for first, last in pairs)


CASES = {
    "on begins, below off ends": (
        "..####.....",
        "  ^  ^     ",
    ),
    "warm holds but does not begin": (
        "+++#++++......++",
        "   ^   ^        ",
    ),
    "one hot window is an event": (
        "....#......",
        "    !      ",
    ),
    "quiet shorter than the hold is bridged": (
        "##..##......",
        "^    ^      ",
    ),
    "quiet as long as the hold is not": (
        "##...##.....",
        "^^   ^^     ",
    ),
    "a warm window within the hold goes on": (
        "#..+..+..+.....#....",
        "^        ^     !    ",
    ),
    "after the end warm is not enough": (
        "##....+++...#...",
        "^^          !   ",
    ),
    "still open at the end of it all": (
        "...###",
        "   ^ ^",
    ),
    "never hot": ("+++.+.+.+..", ""),
}


@pytest.mark.parametrize(("text", "marks"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("mode", ["present", "absent"])
def test_spans(text, marks, mode):
    told = run(text, SCORES if mode == "present" else ABSENT, alarm_on=mode)
    assert spans(told) == carets(marks)


def test_an_event_is_told_when_it_begins_and_when_it_ends():
    told = run("..##......")
    assert [(place, change.state, change.end_reason) for place, change in told] == [
        (2, State.START, None),
        (6, State.END, EndReason.QUIET),
    ]
    assert [change.span.end_sample for _, change in told] == [5, 6]


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("..##......", ""),
        ("..###.....", "  ^ ^     "),
        ("#..#......", "^  ^      "),  # the duration counts what lies between
        ("#+.+++.....###..#.....", "^    ^     ^    ^     "),
    ],
)
def test_what_is_shorter_than_the_minimum_is_never_told(text, marks):
    told = run(text, min_duration_samples=6)
    assert spans(told) == carets(marks)
    for place, change in told:
        if change.state is State.START:
            # Told with the very window that made it long enough.
            assert change.span.end_sample == place + WINDOW - 1
            assert change.span.end_sample - change.span.start_sample + 1 >= 6


def test_the_thresholds_belong_to_the_event():
    for score, expected in ((0.8, 1), (0.8 - 1e-9, 0)):
        assert len(spans(run("#", {"#": score}))) == expected
    assert spans(run("#+", {"#": 0.8, "+": 0.4})) == [(0, 4)]
    assert spans(run("#+", {"#": 0.8, "+": 0.4 - 1e-9})) == [(0, 3)]
    # Absent: from the first below off to the last below on.
    for score, expected in ((0.4, 0), (0.4 - 1e-9, 1)):
        assert len(spans(run("#", {"#": score}, alarm_on="absent"))) == expected
    assert spans(run("#+", {"#": 0.3, "+": 0.8 - 1e-9}, alarm_on="absent")) == [(0, 4)]
    assert spans(run("#+", {"#": 0.3, "+": 0.8}, alarm_on="absent")) == [(0, 3)]


@pytest.mark.parametrize(("mode", "peak"), [("present", 0.95), ("absent", 0.05)])
def test_the_peak_is_the_most_extreme_score(mode, peak):
    scores = {"#": 0.9, "p": 0.95, "+": 0.5, ".": 0.1}
    tracker, peaks = Tracker(rules(alarm_on=mode)), []
    for now, letter in enumerate("##p#+."):
        score = scores[letter] if mode == "present" else 1 - scores[letter]
        tracker.push(score, now)
        peaks.append(tracker.peaked)
    assert tracker.span.peak_score == pytest.approx(peak)
    assert peaks == [True, False, True, False, False, False]


def test_updates_come_at_most_once_in_a_while():
    told = run("#" * 20 + "....", update_samples=5)
    assert [place for place, change in told if change.state is State.UPDATE] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    ("text", "expected", "reason", "missing"),
    [
        ("##|3|##....", (0, 12), EndReason.QUIET, 3),
        ("##|4|##....", (0, 4), EndReason.GAP, 0),
        ("##|2|#|1|#....", (0, 15), EndReason.QUIET, 3),
        ("##|3|......", (0, 4), EndReason.QUIET, 0),  # nothing heard after the gap: it is not within the event
        ("|99|##....", (99, 103), EndReason.QUIET, 0),
        ("##|2||2||2||2|", (0, 4), EndReason.GAP, 0),  # gap upon gap cannot hold it open
    ],
)
def test_gaps(text, expected, reason, missing):
    told = run(text)
    first = next(change for _, change in told if change.state is State.END)
    assert (first.span.start_sample, first.span.end_sample) == expected
    assert (first.end_reason, first.span.gap_samples) == (reason, missing)


def test_a_gap_after_the_event_does_not_count_for_the_next():
    told = run("##....|2|.##.|1|##....")
    ends = [change.span for _, change in told if change.state is State.END]
    assert [span.gap_samples for span in ends] == [0, 1]


@pytest.mark.parametrize("reason", list(EndReason))
def test_an_open_event_is_ended_for_any_reason_once(reason):
    tracker = Tracker(rules())
    assert tracker.end(reason) is None
    tracker.push(0.9, 0)
    ended = tracker.end(reason)
    assert (ended.state, ended.end_reason) == (State.END, reason)
    assert tracker.end(reason) is None
    assert tracker.span is None


def offline(text, hold, min_duration):
    """Spans of warm windows that begin hot, merged over quiet below the hold: one regular expression."""
    bridged = max(hold - 1, 0)
    spans_ = [
        (match.start(), match.start() + len(match.group().rstrip(".")) - 1 + WINDOW - 1)
        for match in re.finditer(rf"#(?:[#+]|\.{{1,{bridged}}}(?=[#+]))*" if bridged else r"#[#+]*", text)
    ]
    return [(first, last) for first, last in spans_ if last - first + 1 >= min_duration]


@settings(max_examples=500)
@given(
    text=st.text("##+...", max_size=60),
    hold=st.integers(0, 6),
    min_duration=st.integers(0, 12),
    update=st.integers(1, 10),
    mode=st.sampled_from(["present", "absent"]),
)
def test_any_scores_give_the_events_of_the_offline_definition(text, hold, min_duration, update, mode):
    told = run(
        text,
        SCORES if mode == "present" else ABSENT,
        alarm_on=mode,
        hold_samples=hold,
        min_duration_samples=min_duration,
        update_samples=update,
    )
    found = spans(told)
    assert found == offline(text, hold, min_duration)
    # Ordered; apart in their windows; each begun once, ended once, updates between.
    for (_, before), (after, _) in pairwise(found):
        assert before - WINDOW + 1 < after
    states = "".join(change.state[0] for _, change in told)
    assert re.fullmatch("(su*e)*", states)
    for (place, _), (later, change) in pairwise(told):
        assert change.state is not State.UPDATE or later - place >= update


@settings(max_examples=300)
@given(
    scores=st.lists(st.floats(-1e6, 1e6), max_size=40),
    steps=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=40, max_size=40),
    off=st.floats(-10, 10),
    above=st.floats(0.01, 5),
    hold=st.integers(0, 20),
    min_duration=st.integers(0, 30),
    mode=st.sampled_from(["present", "absent"]),
)
def test_any_scores_and_gaps_give_ordered_closed_events(scores, steps, off, above, hold, min_duration, mode):
    tracker = Tracker(
        rules(
            on=off + above,
            off=off,
            hold_samples=hold,
            min_duration_samples=min_duration,
            alarm_on=mode,
            update_samples=7,
        )
    )
    now, told, lost = 0, [], 0
    for score, (hop, gap) in zip(scores, steps, strict=False):
        if gap > 9:
            lost += gap
            now += WINDOW + gap
            told.append(tracker.gap(gap, now))
        told.append(tracker.push(score, now))
        now += hop
    told.append(tracker.end(EndReason.SHUTDOWN))
    told = [change for change in told if change]
    assert re.fullmatch("(su*e)*", "".join(change.state[0] for change in told))
    ended = [change.span for change in told if change.state is State.END]
    for span in ended:
        assert span.end_sample - span.start_sample + 1 >= max(min_duration, WINDOW)
        extreme = span.peak_score >= off + above if mode == "present" else span.peak_score < off
        assert extreme
    assert all(before.start_sample < after.start_sample for before, after in pairwise(ended))
    assert sum(span.gap_samples for span in ended) <= lost
