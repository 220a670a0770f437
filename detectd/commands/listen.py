"""Follow a daemon's events: what arrives on PUB, and through replay what did not."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import zmq

from detectd.commands.ledger import Ledger
from detectd.commands.replay_client import NoAnswerError, ReplayClient
from detectd.publish.message import HEARTBEAT_TOPIC, topic_of
from detectd.sockets import Socket, connect

QUIET_S = 3.0
"""Without a heartbeat for so long, the daemon is not there."""

_WAITING_MESSAGES = 100_000
_ASKED_FOR_HISTORY = 1000
_ASKED_BY_TOPIC = 100
_ASK_AGAIN_S, _GIVE_UP_S = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Heard:
    """Something to print: an event message, or a notice about the listening itself.

    Attributes
    ----------
    how : str
        Of a message that did not just arrive: "earlier" or "recovered".
    """

    message: dict[str, Any] | None = None
    how: str = ""
    notice: str = ""


class Listener:
    """A subscriber that knows when it has missed something, and asks for it.

    Parameters
    ----------
    replay : str or None
        The daemon's replay socket; None = what is missed stays missed.
    topic : str
        Prefix of the topics wanted, such as ``event/yard``.
    n_earlier : int
        How many messages to begin with that were published before.
    """

    def __init__(self, endpoint: str, replay: str | None, topic: str = "event/", n_earlier: int = 0) -> None:
        self._socket: Socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, _WAITING_MESSAGES)
        for prefix in (topic, HEARTBEAT_TOPIC):
            self._socket.subscribe(prefix)
        self._topic = topic
        self._n_earlier = n_earlier
        self._run_id = ""
        self._ledgers: dict[str, Ledger] = {}  # of all runs since all was well
        self._left_run = False  # and what it published last was not yet asked for
        self._safe_time = ""  # everything published before it has been seen
        self._states: dict[str, str] = {}
        self._missing_since_s: float | None = None  # and replay does not answer
        self._ask_again_s = 0.0
        connect(self._socket, endpoint, "--from")
        self._replay = ReplayClient(replay) if replay is not None else None

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        if self._replay is not None:
            self._replay.close()

    def follow(self) -> Iterator[Heard]:
        """Yield what there is to print, for ever."""
        waiting: list[dict[str, Any]] = []
        for message in self._received():
            if isinstance(message, Heard):
                yield message
            elif "event_id" not in message:
                if not self._run_id:
                    mine = [one for one in waiting if one["run_id"] == message["run_id"]]
                    yield from self._join(message, mine)
                    yield from self._live(mine)
                yield from self._beat(message)
            elif self._run_id:
                yield from self._live([message])
            else:
                waiting.append(message)  # until a heartbeat has told where things stand

    def _received(self) -> Iterator[dict[str, Any] | Heard]:
        heard_s = time.monotonic()
        present: bool | None = None
        while True:
            if self._socket.poll(500):
                heard_s, present = time.monotonic(), True
                yield json.loads(self._socket.recv_multipart()[1])
            elif present is not False and time.monotonic() - heard_s > QUIET_S:
                present = False
                yield Heard(notice="nothing heard from the daemon; waiting for it")

    def _join(self, heartbeat: dict[str, Any], waiting: Sequence[dict[str, Any]]) -> Iterator[Heard]:
        """Say how things are, and what happened lately; what waits to be printed counts as not seen."""
        self._run_id, self._safe_time = heartbeat["run_id"], heartbeat["time"]
        first_seqs = {_topic(message): message["seq"] - 1 for message in reversed(waiting)}
        self._ledgers[self._run_id] = Ledger(self._topic, heartbeat["seq"] | first_seqs)
        self._states = {name: stream["state"] for name, stream in heartbeat["streams"].items()}
        streams = ", ".join(f"{name} {state}" for name, state in self._states.items())
        yield Heard(notice=f"connected to run {self._run_id[:8]}; streams: {streams or 'none yet'}")
        if self._replay is None or not self._n_earlier:
            return
        try:
            found = list(self._replay.ask({"last": max(self._n_earlier, _ASKED_FOR_HISTORY)}))
        except NoAnswerError as error:
            yield Heard(notice=f"{error}; what happened before is not shown")
            return
        mine = [message for message in found if _topic(message).startswith(self._topic)]
        for message in mine[-self._n_earlier :]:
            if message["run_id"] == self._run_id:
                self._take(message)  # it may be on its way on PUB as well
            yield Heard(message, "earlier")

    def _live(self, messages: list[dict[str, Any]]) -> Iterator[Heard]:
        for message in messages:
            yield from self._meet(message["run_id"])
            topic, seq = _topic(message), message["seq"]
            if seq > self._ledger.wanted(topic):
                # What is missing comes first.
                self._ledger.heard({topic: seq - 1})
                yield from self._recover()
            if self._take(message):
                yield Heard(message)

    def _beat(self, heartbeat: dict[str, Any]) -> Iterator[Heard]:
        yield from self._meet(heartbeat["run_id"])
        self._ledger.heard(heartbeat["seq"])
        if self._ledger.missing() or self._left_run:
            yield from self._recover()
        if self._missing_since_s is None:
            self._safe_time = heartbeat["time"]
            self._ledgers = {self._run_id: self._ledger}
        for name, stream in heartbeat["streams"].items():
            if self._states.get(name) != stream["state"]:
                self._states[name] = stream["state"]
                yield Heard(notice=f"stream {name}: {stream['state']}")

    def _meet(self, run_id: str) -> Iterator[Heard]:
        """Go over to another run, whose numbers begin anew."""
        if run_id in self._ledgers:
            return
        yield Heard(notice=f"the daemon was started anew: run {run_id[:8]}")
        self._run_id = run_id
        self._ledgers[run_id] = Ledger(self._topic, {})
        self._left_run = True
        yield from self._recover()

    @property
    def _ledger(self) -> Ledger:
        return self._ledgers[self._run_id]

    def _take(self, message: dict[str, Any]) -> bool:
        ledger = self._ledgers.get(message["run_id"])
        if ledger is None:  # of a run in between, that was never heard
            ledger = self._ledgers[message["run_id"]] = Ledger(self._topic, {})
        return ledger.take(_topic(message), message["seq"])

    def _recover(self) -> Iterator[Heard]:
        """Ask for everything since all was well; what does not come then is lost."""
        if self._replay is None:
            yield from self._lost("no --replay to ask for them", "")
            return
        if time.monotonic() < self._ask_again_s:
            return
        n_recovered = 0
        try:
            for message in self._asked():
                n_recovered += 1
                yield Heard(message, "recovered")
        except NoAnswerError as error:
            yield from self._unanswered(error)
            return
        if n_recovered:
            yield Heard(notice=f"recovered {n_recovered} messages")
        self._missing_since_s = None
        doubt = "" if self._replay.complete else "what the run before published last may be lost in part"
        yield from self._lost("they are not in the journal", doubt)

    def _asked(self) -> Iterator[dict[str, Any]]:
        """Messages not seen before, in publish order."""
        assert self._replay is not None
        yield from filter(self._take, self._replay.ask({"since_time": self._safe_time}))
        complete = self._replay.complete
        # A clock that was set back hides messages from a question by time.
        for topic in islice(self._ledger.missing(), _ASKED_BY_TOPIC):
            since = {"run_id": self._run_id, "topic": topic, "since_seq": self._ledger.wanted(topic)}
            yield from filter(self._take, self._replay.ask(since))
        self._replay.complete = complete

    def _unanswered(self, error: NoAnswerError) -> Iterator[Heard]:
        now_s = time.monotonic()
        self._ask_again_s = now_s + _ASK_AGAIN_S
        if self._missing_since_s is None:
            self._missing_since_s = now_s
            yield Heard(notice=f"missed {self._missing_text()}; {error}; asking again")
        elif now_s - self._missing_since_s > _GIVE_UP_S:
            self._missing_since_s = None
            yield from self._lost(str(error), "")

    def _lost(self, why: str, doubt: str) -> Iterator[Heard]:
        """Tell what will not come any more, and go on from here."""
        text = self._missing_text()
        if self._ledger.missing():
            yield Heard(notice=f"missed {text}, lost for good: {why}")
        if self._left_run and (doubt or self._replay is None):
            yield Heard(notice=doubt or "what the run before published last may be lost")
        self._ledger.give_up()
        self._left_run = False

    def _missing_text(self) -> str:
        missing = self._ledger.missing()
        if not missing:
            return "perhaps some messages of the run before"
        topics = ", ".join(islice(missing, 5)) + (" and others" if len(missing) > 5 else "")
        return f"{sum(missing.values())} messages on {topics}"


def _topic(message: dict[str, Any]) -> str:
    return topic_of(message["stream"], message["detector"])
