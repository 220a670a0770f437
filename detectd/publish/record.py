"""A published message with what the journal files it under. Pure."""

from dataclasses import dataclass

from detectd.engine.event import Event
from detectd.publish.message import closing_message, event_message, topic_of


@dataclass(frozen=True, slots=True)
class Record:
    """A message about an event.

    Attributes
    ----------
    seq : int
        Number on the topic within the run.
    start_ns, heard_ns : int
        UTC of the event's first sample and of the last one known to belong to it.
    heard_sample : int
        That last sample: where the event ends if nobody can say more.
    body : str
        The message, JSON, as subscribers get it.
    """

    topic: str
    seq: int
    event_id: str
    state: str
    stream: str
    detector: str
    start_ns: int
    heard_ns: int
    heard_sample: int
    body: str


@dataclass(frozen=True, slots=True)
class OpenEvent:
    """An event without an end, as its newest journaled message left it."""

    event_id: str
    stream: str
    detector: str
    start_ns: int
    heard_ns: int
    heard_sample: int
    body: str


def record_of(event: Event, *, run_id: str, seq: int, journaled: bool) -> Record:
    """One state of an event, ready to be journaled and published."""
    return Record(
        topic=topic_of(event.stream, event.detector),
        seq=seq,
        event_id=event.event_id,
        state=event.state,
        stream=event.stream,
        detector=event.detector,
        start_ns=event.start_utc_ns,
        heard_ns=event.heard_utc_ns,
        heard_sample=event.heard_sample,
        body=event_message(event, run_id=run_id, seq=seq, journaled=journaled),
    )


def open_event(record: Record) -> OpenEvent:
    """What a record says of an event that goes on."""
    return OpenEvent(
        event_id=record.event_id,
        stream=record.stream,
        detector=record.detector,
        start_ns=record.start_ns,
        heard_ns=record.heard_ns,
        heard_sample=record.heard_sample,
        body=record.body,
    )


def closing_record(left: OpenEvent, *, run_id: str, seq: int) -> Record:
    """The end of an event that an earlier run left open."""
    return Record(
        topic=topic_of(left.stream, left.detector),
        seq=seq,
        event_id=left.event_id,
        state="end",
        stream=left.stream,
        detector=left.detector,
        start_ns=left.start_ns,
        heard_ns=left.heard_ns,
        heard_sample=left.heard_sample,
        body=closing_message(left.body, left.heard_sample, left.heard_ns, run_id=run_id, seq=seq),
    )
