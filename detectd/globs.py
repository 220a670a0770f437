"""Which streams a glob of the configuration names."""

from fnmatch import fnmatchcase


def matches(stream_id: str, pattern: str) -> bool:
    """Whether a glob names this stream, or the source whose channel it is.

    >>> matches("yard-3", "yard-*"), matches("array/1", "array"), matches("array/left", "array")
    (True, True, False)
    """
    source_id, _, channel = stream_id.rpartition("/")
    return fnmatchcase(stream_id, pattern) or (channel.isdecimal() and fnmatchcase(source_id, pattern))
