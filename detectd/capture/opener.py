"""Opens the one device that is wanted, and makes sure that it is that one."""

import os
from typing import NamedTuple

from detectd.capture.choice import DEFAULT, InputDevice, NoSuchDeviceError, choose, names
from detectd.capture.pin import NotShownError, Pin, UnpinnableError, on_server
from detectd.capture.portaudio import DeviceError, Microphone, inputs, look_again
from detectd.capture.pulse import PulseServer, ServerGoneError
from detectd.capture.pulse_wire import ProtocolError
from detectd.capture.status import Task
from detectd.capture.surroundings import surroundings
from detectd.dsp.audio import SampleFormat

NOT_OPENED = (NoSuchDeviceError, DeviceError, UnpinnableError, TimeoutError, ServerGoneError, ProtocolError)
"""What `Opener.open` raises; all may be otherwise the next time."""

_LOOKS, _LOOK_EVERY = 3, 8


class Form(NamedTuple):
    """What a stream carries."""

    rate_hz: int
    channels: int
    sample_format: SampleFormat


class OpenMicrophone(NamedTuple):
    """A stream that records; `pin` is None where no sound server is in between."""

    microphone: Microphone
    pin: Pin | None
    note: str


class Opener:
    """Opens a task's device, again and again the same one.

    Attributes
    ----------
    pinned : str or None
        The source of the sound server that the device is. "default" is what was the default when it was first opened.

    Parameters
    ----------
    mark : str
        Of `sign_streams`.
    """

    def __init__(self, task: Task, mark: str) -> None:
        self.pinned = task.pinned
        self._name = task.name
        self._looked_at: tuple[object, ...] | None = None
        self._looks_due = 0
        self._task = task
        self._mark = mark
        self._form: Form | None = None

    def open(self) -> OpenMicrophone:
        """Open it, also if it has only come. Raises one of `NOT_OPENED`."""
        if self.pinned and self._task.device == DEFAULT:
            # The default of that time, whatever it has become.
            os.environ["PULSE_SOURCE"] = self.pinned
        self._look()
        device = self._chosen()
        form = self._form or self._first_guess(device)
        while True:
            # The question must be possible before there is anything to ask about.
            server = None if device.is_hardware else on_server()
            microphone = Microphone(device, form.rate_hz, form.channels, form.sample_format)
            try:
                microphone.start()
                pin = self._pinned_to(server, device)
                wanted = self._wanted(pin, form)
                if wanted == form:
                    self._form, self._name = form, device.name
                    return OpenMicrophone(microphone, pin, _note(device, pin, form))
            except BaseException:
                _close(microphone, server)
                raise
            _close(microphone, server)
            form = wanted

    def _look(self) -> None:
        """Have PortAudio list its devices anew where there may be others, and now and then."""
        seen = surroundings()
        if self._looked_at is not None:
            if seen != self._looked_at:
                # What has just come may not be ready at the first look.
                self._looks_due = _LOOKS
            if self._looks_due > 0 or self._looks_due <= -_LOOK_EVERY:
                look_again()
                self._looks_due = max(0, self._looks_due)
            self._looks_due -= 1
        self._looked_at = seen

    def _chosen(self) -> InputDevice:
        """The very device of the last time: a part of its name, or the default, may mean another by now."""
        devices = inputs()
        if self._name is None:
            return choose(devices, self._task.device)
        same = [device for device in devices if device.name == self._name]
        if len(same) != 1:
            raise NoSuchDeviceError(f"waiting for {self._name!r}; there are: {names(devices)}")
        return same[0]

    def _first_guess(self, device: InputDevice) -> Form:
        channels = self._task.channels or (device.channels if self._task.mix and device.is_hardware else 1)
        return Form(self._task.rate_hz or device.default_rate_hz, channels, SampleFormat.S16)

    def _pinned_to(self, server: PulseServer | None, device: InputDevice) -> Pin | None:
        """Find the source that the stream just opened is on; None where no sound server is in between."""
        pin = None
        if server:
            try:
                pin = Pin(server, self._mark)
            except NotShownError:
                server.close()
        if self.pinned and (pin is None or pin.source.name != self.pinned):
            elsewhere = pin.source.name if pin else "another way"
            raise DeviceError(f"device {device.name!r} leads to {elsewhere} now; waiting for {self.pinned}")
        if pin:
            self.pinned = pin.source.name
        return pin

    def _wanted(self, pin: Pin | None, form: Form) -> Form:
        """How the source is to be opened, once it is known."""
        if pin is None:
            return form
        source, task = pin.source, self._task
        if form.channels > source.channels:
            raise DeviceError(
                f"device {source.name!r} has {source.channels} channel(s), {form.channels} are asked for; "
                "the sound server would make up the rest"
            )
        return Form(
            task.rate_hz or source.rate_hz,
            task.channels or (source.channels if task.mix else 1),
            SampleFormat.F32 if source.bits > 16 else SampleFormat.S16,
        )


def _note(device: InputDevice, pin: Pin | None, form: Form) -> str:
    if pin is None:
        return "" if device.is_hardware else "no sound server shows it, so it is not watched for another device"
    if pin.source.rate_hz != form.rate_hz:
        return f"the sound server converts from {pin.source.rate_hz} samples/s"
    return ""


def _close(microphone: Microphone, server: PulseServer | None) -> None:
    microphone.close()
    if server:
        server.close()
