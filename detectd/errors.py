"""Every error that is the user's to mend. The commands print one as a single line; anything else is a bug."""


class DetectdError(Exception):
    """Says what was given, what was expected and where to change it."""

    exit_code = 1


class ConfigError(DetectdError):
    """The configuration cannot be used."""

    exit_code = 2


class BundleError(DetectdError):
    """A model bundle cannot be trusted or used."""

    exit_code = 3


class SourceError(DetectdError):
    """Audio cannot be had from where it was asked for."""
