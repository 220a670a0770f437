"""UTC as people and messages write it, to the nanosecond and back. Pure."""

import re
from datetime import UTC, datetime

_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799
"""Years 1 to 9999: what RFC 3339 can say."""

_FORM = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):([0-5]\d))", flags=re.ASCII
)


def rfc3339(utc_ns: int) -> str:
    """UTC with nanoseconds; times that a calendar of four-digit years cannot say become its ends.

    >>> rfc3339(1_700_000_000_123_456_789)
    '2023-11-14T22:13:20.123456789Z'
    """
    seconds, nanoseconds = divmod(utc_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(min(max(seconds, _FIRST_S), _LAST_S), UTC)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}.{nanoseconds:09d}Z"


def utc_ns_of(text: str) -> int:
    """Nanoseconds of an RFC 3339 time; what is finer is cut off.

    >>> utc_ns_of("2023-11-14T23:13:20.123456789+01:00")
    1700000000123456789

    Raises
    ------
    ValueError
        If it is none.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("not a time like 2026-05-01T12:00:00Z")
    day, minute, second, fraction, sign, hours, minutes = found.groups()
    leap = second == "60"
    moment = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}+00:00")
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) + leap
    if sign:
        offset_s = int(hours) * 3600 + int(minutes) * 60
        seconds -= offset_s if sign == "+" else -offset_s
    return seconds * 1_000_000_000 + int((fraction or "0")[:9].ljust(9, "0"))
