"""Small parts of sound capture: names, reports, the sound server's messages, what waits for a daemon. No device."""

import contextlib
import itertools
import struct

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from detectd.capture import pulse_wire
from detectd.capture.choice import InputDevice, NoSuchDeviceError, choose
from detectd.capture.forwarder import Forwarder
from detectd.capture.ledger import Reading
from detectd.capture.opener import Opener
from detectd.capture.outlet import Outlet
from detectd.capture.pulse_wire import ProtocolError, SourceOutput
from detectd.capture.reader import BLOCK_S, Closed, Handover, Opened, Reader, Running
from detectd.capture.status import RecorderState, Status, Task
from detectd.dsp.audio import SampleFormat
from detectd.errors import SourceError
from detectd.streams.epoch import Epoch
from detectd.streams.wire import Flag, blocks_of


def device(name, index=0, *, is_default=False):
    return InputDevice(index, name, "ALSA", 2, 48_000, is_default)


USB = [
    device("USB Audio: - (hw:1,0)", 0),
    device("USB Microphone: - (hw:2,0)", 1),
    device("usb", 2),
    device("pulse", 3, is_default=True),
]


@pytest.mark.parametrize(
    ("wanted", "index"), [("usb", 2), ("microphone", 1), ("hw:1", 0), ("default", 3), ("USB Audio: - (hw:1,0)", 0)]
)
def test_a_device_is_found_by_its_name_or_the_only_one_with_such_a_part(wanted, index):
    assert choose(USB, wanted).index == index


@pytest.mark.parametrize(
    ("wanted", "said", "not_said"),
    [
        ("USB", ["several", "'USB Audio: - (hw:1,0)'", "'USB Microphone: - (hw:2,0)'", "'usb'"], ["'pulse'"]),
        ("barn", ["'barn'", "there are:", "'usb'", "'pulse'"], []),
    ],
)
def test_a_name_that_is_none_is_told_with_those_that_are(wanted, said, not_said):
    with pytest.raises(NoSuchDeviceError) as refusal:
        choose(USB, wanted)
    text = str(refusal.value)
    assert [words for words in said if words not in text] == []
    assert [words for words in not_said if words in text] == []


def test_two_devices_of_one_name_are_not_guessed_at():
    with pytest.raises(NoSuchDeviceError, match="several"):
        choose([device("twin", 0), device("twin", 1)], "twin")


def test_only_a_card_itself_needs_no_watching():
    assert [one.is_hardware for one in USB] == [True, True, False, False]


def test_a_task_survives_the_command_line():
    task = Task("déjà vu", "yard", "ipc:///x", 48_000, None, mix=True, pinned="alsa_input.usb")
    assert Task.of(task.line()) == task


def test_a_report_survives_the_pipe_and_other_versions():
    status = Status(RecorderState.LOST, "gone", "mic", 44_100, 2, -12.5, 441, 0, "src")
    assert Status.of(status.line()) == status
    assert Status.of(status.line()[:-1] + ', "mood": "good"}') == status
    assert "\n" not in Status(RecorderState.LOST, "two\nlines").line()


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", '{"state": "dancing"}', "ALSA lib pcm.c: what"])
def test_what_is_no_report_is_refused(line):
    with pytest.raises(ValueError):
        Status.of(line)


def test_the_first_report_of_a_successor_knows_what_it_is_held_to(tmp_path):
    # Its supervisor takes that from the latest report, for the next one.
    task = Task("default", "yard", f"ipc://{tmp_path}/x", 48_000, None, mix=False, pinned="alsa_input.usb", name="usb")
    handover, running = Handover(), Running()
    reader = Reader(Opener(task, "mark"), handover, running)
    outlet = Outlet(task.endpoint)
    status = Forwarder(task, outlet, handover, reader, running).status
    outlet.close()
    assert (status.pinned, status.device) == ("alsa_input.usb", "usb")


def source_output(number, source, properties):
    """As a server of version 13 says it."""
    text, u32 = pulse_wire.text, pulse_wire.u32
    return (
        u32(number) + text("ALSA Capture") + u32(0) + u32(7) + u32(source)
        + b"a" + struct.pack(">BBI", 3, 2, 48_000) + b"m" + bytes([2, 1, 2])
        + b"U" + struct.pack(">Q", 0) + b"U" + struct.pack(">Q", 25)
        + text(None) + text("protocol-native.c") + pulse_wire.properties(properties)
    )  # fmt: skip


@given(
    st.lists(
        st.builds(
            SourceOutput,
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
            st.dictionaries(st.text("abc.", min_size=1), st.text("xyz é")),
        )
    )
)
def test_streams_are_read_as_they_were_said(streams):
    body = b"".join(source_output(*stream) for stream in streams)
    message = pulse_wire.message_of(pulse_wire.request(pulse_wire.REPLY, 5, body)[pulse_wire.DESCRIPTOR.size :])
    assert (message.command, message.tag) == (pulse_wire.REPLY, 5)
    assert pulse_wire.source_outputs_of(message.body) == streams


@given(st.data())
def test_a_broken_answer_is_refused_and_nothing_else(data):
    body = bytearray(source_output(1, 2, {"detectd.recorder": "0123"}))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=3)):
        body[at] = data.draw(st.integers(0, 255))
    broken = bytes(body[: data.draw(st.integers(0, len(body)))])
    for read in (pulse_wire.source_outputs_of, pulse_wire.source_of, pulse_wire.message_of):
        with contextlib.suppress(ProtocolError):
            read(broken)


def test_a_source_is_read_with_what_it_has():
    spec = b"a" + struct.pack(">BBI", 9, 2, 96_000)
    body = pulse_wire.u32(4) + pulse_wire.text("alsa_input.usb") + pulse_wire.text("Mic") + spec + b"and more"
    assert pulse_wire.source_of(body) == (4, "alsa_input.usb", "Mic", 96_000, 2, 24)


def test_an_event_is_about_the_stream_whose_change_it_tells():
    moved, begun, other = (pulse_wire.u32(event) + pulse_wire.u32(9) for event in (0x13, 0x03, 0x11))
    assert pulse_wire.changed_source_output(moved) == 9
    assert pulse_wire.changed_source_output(begun) is None
    assert pulse_wire.changed_source_output(other) is None


def test_blocks_of_an_epoch_are_numbered_and_end():
    epoch = Epoch("yard", 48_000, 2, SampleFormat.S16, 99)
    messages = [
        epoch.block(bytes(8), 0, t_first_utc_ns=5, t_err_ns=6),
        epoch.block(bytes(4), 7, flags=Flag.DISCONTINUITY),
        epoch.end(8),
    ]
    headers = [block.header for message in messages for block in blocks_of([memoryview(message)])]
    assert [(h.seq, h.first_sample, h.n_frames, h.flags) for h in headers] == [(0, 0, 2, 0), (1, 7, 1, 1), (2, 8, 0, 2)]
    assert {(h.stream_id, h.epoch, h.rate_hz, h.channels) for h in headers} == {("yard", 99, 48_000, 2)}
    assert (headers[0].t_first_utc_ns, headers[0].t_err_ns) == (5, 6)


def reading(number):
    return Reading(bytes([number % 256]), 10, 0, float(number), 0)


def test_a_handover_drops_the_oldest_readings_and_nothing_else():
    handover = Handover()
    opened, closed = Opened("mic", 48_000, 1, SampleFormat.S16, None, ""), Closed("gone")
    handover.put(opened)
    for number in range(150):
        handover.put(reading(number))
    handover.put(closed)
    items = handover.take(0)
    assert (items[0], items[-1]) == (opened, closed)
    kept = [item.at_s for item in items[1:-1]]
    assert kept == [float(number) for number in range(150 - len(kept), 150)]
    assert handover.dropped_frames == 10 * (150 - len(kept))
    assert 9 <= len(kept) * BLOCK_S <= 10.2
    assert handover.take(0) == []


def test_what_nobody_takes_makes_room_and_what_is_taken_is_the_newest(tmp_path):
    endpoint = f"ipc://{tmp_path}/in"
    outlet = Outlet(endpoint)
    for number in range(300):
        outlet.put(bytes([number % 256]), 10, 0.1)
    assert outlet.dropped_samples == 10 * 200
    with zmq.Context() as context, context.socket(zmq.PULL) as receiver:
        receiver.bind(endpoint)
        got = []
        while len(got) < 100:
            outlet.flush()
            if receiver.poll(20):
                got.append(receiver.recv())
        outlet.close()
        assert outlet.empty
        assert got == [bytes([number % 256]) for number in range(200, 300)]
        assert not receiver.poll(50)


def test_an_outlet_to_nowhere_is_one_clear_line():
    with pytest.raises(SourceError, match=r"--to tcp://:x"):
        Outlet("tcp://:x")


def test_closing_does_not_wait_for_ever(tmp_path):
    outlet = Outlet(f"ipc://{tmp_path}/nobody")
    for number in itertools.repeat(0, 5):
        outlet.put(bytes([number]), 1, 0.1)
    outlet.close()
    assert not outlet.empty
