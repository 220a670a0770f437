"""The wire: bytes written by hand, every cutting into parts, every refusal, and garbage that must not raise."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detectd.dsp.audio import SampleFormat, decode, encode
from detectd.streams.wire import (
    HEADER,
    Flag,
    Header,
    Refusal,
    WireBlock,
    blocks_of,
    channel_ids,
    is_stream_id,
    pack,
    samples_of,
)

LAYOUT = "<4sBBBBII32sQQQqII"
"""As docs/protocol.md prints it."""

NAMES = st.text("abcXYZ019._/-", min_size=1, max_size=32)
FORMATS = st.sampled_from(list(SampleFormat))
U64 = st.integers(0, 2**64 - 1)


def header(**changes):
    return Header(0, 1, 1, 8000, 4, "yard", 7, 0, 0)._replace(**changes)


def raw(magic=b"DAU1", version=1, payload=b"\0" * 8, **changes):
    """A block by hand, whatever it says."""
    fields = {
        "flags": 0, "format": 1, "channels": 1, "rate": 8000, "n_frames": 4, "name": b"yard",
        "epoch": 7, "seq": 0, "first": 0, "utc": 0, "err": 0, "crc": 0,
    } | changes  # fmt: skip
    return struct.pack(LAYOUT, magic, version, *fields.values()) + payload


def read(*parts):
    return list(blocks_of([memoryview(part) for part in parts]))


@st.composite
def blocks(draw):
    sample_format, channels = draw(FORMATS), draw(st.integers(1, 64))
    n_frames = draw(st.integers(0, 20))
    size = n_frames * channels * sample_format.width
    payload = np.random.default_rng(draw(st.integers(0, 99))).bytes(size)
    fields = Header(
        draw(st.integers(0, 7)),
        int(sample_format),
        channels,
        draw(st.integers(100, 192_000)),
        n_frames,
        draw(NAMES),
        draw(U64),
        draw(U64),
        draw(U64),
        draw(st.integers(-(2**63), 2**63 - 1)),
        draw(st.integers(0, 2**32 - 1)),
    )
    return fields, payload


def test_golden_bytes():
    """Every byte of a header by its place."""
    block = pack(
        Header(
            flags=Flag.CRC | Flag.END,
            sample_format=2,
            channels=3,
            rate_hz=44100,
            n_frames=1,
            stream_id="a/b-c.D_9",
            epoch=0x1122334455667788,
            seq=5,
            first_sample=2**40 + 1,
            t_first_utc_ns=-2,
            t_err_ns=9,
        ),
        b"123456789",
    )
    assert block == (
        b"DAU1" b"\x01" b"\x06" b"\x02" b"\x03"
        b"\x44\xac\x00\x00" b"\x01\x00\x00\x00"
        b"a/b-c.D_9" + b"\0" * 23 +
        b"\x88\x77\x66\x55\x44\x33\x22\x11"
        b"\x05\x00\x00\x00\x00\x00\x00\x00"
        b"\x01\x00\x00\x00\x00\x01\x00\x00"
        b"\xfe\xff\xff\xff\xff\xff\xff\xff"
        b"\x09\x00\x00\x00"
        b"\x26\x39\xf4\xcb"  # crc32 of 123456789: the check value of its definition, 0xcbf43926
        b"123456789"
    )  # fmt: skip
    assert HEADER.format == LAYOUT
    assert HEADER.size == 88


@given(sent=st.lists(blocks(), min_size=1, max_size=4), data=st.data())
def test_every_way_of_packing_a_message_is_read_alike(sent, data):
    packed = [pack(fields, payload) for fields, payload in sent]
    expected = [
        (fields._replace(crc32=zlib.crc32(payload) if fields.flags & Flag.CRC else 0), payload)
        for fields, payload in sent
    ]
    split = [part for block in packed for part in (block[:88], block[88:])]
    cut = data.draw(st.integers(0, len(packed)))
    for parts in ([b"".join(packed)], split, packed, [b"".join(packed[:cut]), *split[2 * cut :]]):
        found = read(*parts)
        assert [(block.header, bytes(block.payload)) for block in found] == expected


@given(data=st.data(), sample_format=FORMATS, channels=st.integers(1, 64), n_frames=st.integers(0, 50))
def test_every_format_is_decoded_to_half_a_step(data, sample_format, channels, n_frames):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    # 1 itself lies a step outside of what integers can say: the next test is about what is that near.
    samples = rng.uniform(-0.9999, 0.9999, (n_frames, channels)).astype(np.float32)
    step = {SampleFormat.S16: 2.0**-15, SampleFormat.S24: 2.0**-23, SampleFormat.S32: 2.0**-31, SampleFormat.F32: 0}
    payload = encode(samples, sample_format)
    assert len(payload) == n_frames * channels * sample_format.width
    decoded = decode(memoryview(payload), sample_format, channels)
    assert decoded.shape == (n_frames, channels)
    error = np.abs(decoded.astype(float) * sample_format.scale - samples.astype(float))
    assert (error <= step[sample_format] / 2).all()


@pytest.mark.parametrize("sample_format", [SampleFormat.S16, SampleFormat.S24, SampleFormat.S32])
def test_what_lies_outside_is_clipped(sample_format):
    decoded = decode(memoryview(encode(np.array([[1.0], [-1.0], [7.0], [-7.0]]), sample_format)), sample_format, 1)
    values = (decoded[:, 0].astype(float) * sample_format.scale).tolist()
    assert values == [values[0], -1.0, values[0], -1.0]
    assert 1 - 2.0 ** -(8 * sample_format.width - 2) <= values[0] < 1


@pytest.mark.parametrize(
    ("sample_format", "payload", "expected"),
    [
        (1, b"\x01\x00\xff\xff\x00\x80", [1 / 2**15, -1 / 2**15, -1.0]),
        (2, b"\x01\x00\x00\xff\xff\xff\x00\x00\x80", [1 / 2**23, -1 / 2**23, -1.0]),
        (3, b"\x01\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x80", [1 / 2**31, -1 / 2**31, -1.0]),
        (4, struct.pack("<3f", 0.5, -0.25, -1.0), [0.5, -0.25, -1.0]),
    ],
)
def test_bytes_by_hand(sample_format, payload, expected):
    decoded = decode(memoryview(payload), sample_format, 1)
    assert (decoded[:, 0].astype(float) * SampleFormat(sample_format).scale).tolist() == expected


def test_channels_are_interleaved():
    decoded = decode(memoryview(struct.pack("<6h", 1, 2, 3, 4, 5, 6)), 1, 3)
    assert decoded.tolist() == [[1, 2, 3], [4, 5, 6]]


REFUSED = {
    "bad magic": (raw(magic=b"DAU2"), Refusal.MAGIC),
    "short garbage": (b"hello", Refusal.MAGIC),
    "long garbage": (b"x" * 200, Refusal.MAGIC),
    "version 2": (raw(version=2), Refusal.VERSION),
    "format 0": (raw(format=0), Refusal.HEADER),
    "format 5": (raw(format=5), Refusal.HEADER),
    "no channel": (raw(channels=0), Refusal.HEADER),
    "65 channels": (raw(channels=65), Refusal.HEADER),
    "rate 0": (raw(rate=0), Refusal.HEADER),
    "rate 99": (raw(rate=99), Refusal.HEADER),
    "rate 192001": (raw(rate=192_001), Refusal.HEADER),
    "no name": (raw(name=b""), Refusal.HEADER),
    "space in name": (raw(name=b"my yard"), Refusal.HEADER),
    "newline at end": (raw(name=b"yard\n"), Refusal.HEADER),
    "NUL within": (raw(name=b"ya\0rd"), Refusal.HEADER),
    "umlaut": (raw(name="yürd".encode()), Refusal.HEADER),
    "not UTF-8": (raw(name=b"\xff"), Refusal.HEADER),
    "10 s and a sample": (raw(n_frames=80_001, payload=b"\0" * 160_002), Refusal.OVERSIZED),
    "oversized, no payload": (raw(n_frames=2**32 - 1), Refusal.OVERSIZED),
    "half a header": (raw()[:60], Refusal.TRUNCATED),
    "half a payload": (raw()[:-1], Refusal.TRUNCATED),
    "no payload": (raw()[:88], Refusal.TRUNCATED),
    "half a payload in its part": ((raw()[:88], b"\0" * 7), Refusal.TRUNCATED),
}


@pytest.mark.parametrize(("message", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals(message, reason):
    parts = message if isinstance(message, tuple) else (message,)
    assert read(*parts) == [reason]


def test_exactly_10_s_and_the_outermost_values_are_taken():
    assert isinstance(read(raw(n_frames=80_000, payload=b"\0" * 160_000))[0], WireBlock)
    longest = raw(rate=100, channels=64, name=b"n" * 32, epoch=2**64 - 1, first=2**64 - 1, payload=b"\0" * 512)
    assert read(longest)[0].header[2:7] == (64, 100, 4, "n" * 32, 2**64 - 1)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (raw(flags=Flag.CRC, crc=1), Refusal.CRC),
        (raw(format=4, payload=struct.pack("<4f", 0, float("nan"), 0, 0)), Refusal.NON_FINITE),
        (raw(format=4, payload=struct.pack("<4f", 0, 0, float("inf"), 0)), Refusal.NON_FINITE),
        (raw(format=4, payload=struct.pack("<4f", -float("inf"), 0, 0, 0)), Refusal.NON_FINITE),
        (raw(format=4, payload=struct.pack("<4f", 0, 0, 0, 1e30)), Refusal.NON_FINITE),
    ],
)
def test_content_is_refused(block, reason):
    (found,) = read(block)
    assert samples_of(found) is reason


def test_a_crc_that_is_not_flagged_is_not_looked_at():
    (found,) = read(raw(crc=1))
    assert samples_of(found).tolist() == [[0]] * 4


@given(flip=st.integers(0, 8 * 8 - 1))
def test_any_flipped_bit_of_a_flagged_payload_is_seen(flip):
    block = bytearray(pack(header(flags=Flag.CRC), b"\x12" * 8))
    block[88 + flip // 8] ^= 1 << flip % 8
    assert samples_of(read(bytes(block))[0]) is Refusal.CRC


def test_a_refused_block_of_known_length_does_not_hide_the_next():
    good = raw()
    for bad in (raw(name=b"my yard"), raw(rate=99), raw(n_frames=80_001, payload=b"\0" * 160_002)):
        found = read(bad + good)
        assert isinstance(found[0], Refusal)
        assert isinstance(found[1], WireBlock)
    # Where the length cannot be known the rest of the part cannot be found, but the next part can.
    for bad in (raw(magic=b"XXXX"), raw(version=9), raw(format=9)):
        found = read(bad + good, good)
        assert [type(block) for block in found] == [Refusal, WireBlock]


@given(parts=st.lists(st.binary(max_size=300), max_size=4))
@example(parts=[b""])
@example(parts=[b"DAU1"])
def test_garbage_yields_refusals_and_never_raises(parts):
    for block in read(*parts):
        assert isinstance(block, Refusal)


@given(
    block=blocks(), place=st.integers(0, 87), value=st.integers(0, 255), cut=st.integers(0, 300), split=st.booleans()
)
def test_a_damaged_block_never_raises(block, place, value, cut, split):
    """One byte of the header changed and the end cut off: read as something, or refused."""
    damaged = bytearray(pack(*block))
    damaged[place] = value
    damaged = bytes(damaged[: max(0, len(damaged) - cut)])
    for found in read(damaged[:88], damaged[88:]) if split else read(damaged):
        if isinstance(found, WireBlock):
            samples = samples_of(found)
            assert isinstance(samples, Refusal) or samples.shape == (found.header.n_frames, found.header.channels)
            assert len(channel_ids(found.header.stream_id, found.header.channels)) == found.header.channels


@given(name=st.text(max_size=40))
def test_names_are_judged_alike_before_and_on_the_wire(name):
    encoded = name.encode("utf-8", "surrogatepass")
    fits = len(encoded) <= 32 and not encoded.endswith(b"\0")
    taken = fits and isinstance(read(raw(name=encoded))[0], WireBlock)
    assert is_stream_id(name) == bool(taken)


def test_channel_ids():
    assert channel_ids("yard", 1) == ["yard"]
    assert channel_ids("yard", 3) == ["yard/0", "yard/1", "yard/2"]
