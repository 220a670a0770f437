"""Which of the devices is meant by a name. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that can record, as PortAudio lists it.

    Attributes
    ----------
    index : int
        PortAudio's, until it is initialised again.
    channels : int
        At most.
    """

    index: int
    name: str
    host_api: str
    channels: int
    default_rate_hz: int
    is_default: bool = False

    @property
    def is_hardware(self) -> bool:
        """Whether it is a card without a sound server in between: nothing can replace it."""
        return "(hw:" in self.name


class NoSuchDeviceError(Exception):
    """No device has that name, or several may be meant."""


def choose(devices: Sequence[InputDevice], wanted: str) -> InputDevice:
    """Find a device by its name: the very name first, then the only one that it is a part of, in any case.

    Raises
    ------
    NoSuchDeviceError
        Naming those there are, or those that match.
    """
    if wanted == DEFAULT and (marked := [device for device in devices if device.is_default]):
        return marked[0]
    for matches in (
        [device for device in devices if device.name == wanted],
        [device for device in devices if wanted.casefold() in device.name.casefold()],
    ):
        if len(matches) > 1:
            raise NoSuchDeviceError(f"several devices match {wanted!r}: {names(matches)}; give the whole name of one")
        if matches:
            return matches[0]
    raise NoSuchDeviceError(f"no input device {wanted!r}; there are: {names(devices)}")


def names(devices: Sequence[InputDevice]) -> str:
    """Names, for a person."""
    return ", ".join(repr(device.name) for device in devices) or "none"
