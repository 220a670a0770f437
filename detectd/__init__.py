"""detectd: an always-on detector of low-feature sounds."""

__version__ = "0.1.0"
