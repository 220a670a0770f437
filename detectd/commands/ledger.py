"""Which messages of a run were seen and which must be missing, by their numbers. Pure."""

from collections.abc import Mapping


class Ledger:
    """Numbers by topic, for one run.

    Parameters
    ----------
    topic : str
        Prefix of the topics that count.
    seq : mapping of str to int
        Where the topics stood when listening began.
    """

    def __init__(self, topic: str, seq: Mapping[str, int]) -> None:
        self._topic = topic
        self._all_to = {name: number for name, number in seq.items() if name.startswith(topic)}
        self._above: dict[str, set[int]] = {}
        self._known_to: dict[str, int] = {}

    def take(self, topic: str, seq: int) -> bool:
        """Enter a message; False if it was seen before or is none that counts."""
        all_to = self._all_to.get(topic, 0)
        above = self._above.setdefault(topic, set())
        if not topic.startswith(self._topic) or seq <= all_to or seq in above:
            return False
        above.add(seq)
        while all_to + 1 in above:
            all_to += 1
            above.remove(all_to)
        self._all_to[topic] = all_to
        self._known_to[topic] = max(seq, self._known_to.get(topic, 0))
        return True

    def heard(self, seq: Mapping[str, int]) -> None:
        """Take note of where a heartbeat says the topics stand."""
        for topic, number in seq.items():
            if topic.startswith(self._topic):
                self._known_to[topic] = max(number, self._known_to.get(topic, 0))

    def missing(self) -> dict[str, int]:
        """How many messages are known of and were not seen, by topic."""
        counts = {
            topic: known_to - self._all_to.get(topic, 0) - len(self._above.get(topic, ()))
            for topic, known_to in self._known_to.items()
        }
        return {topic: count for topic, count in counts.items() if count > 0}

    def wanted(self, topic: str) -> int:
        """The first number on a topic that was not seen."""
        return self._all_to.get(topic, 0) + 1

    def give_up(self) -> None:
        """Count what is missing as seen: it will not come any more."""
        for topic in self.missing():
            self._all_to[topic] = self._known_to[topic]
            self._above[topic] = set()
