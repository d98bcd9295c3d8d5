"""The errors that edged raises on purpose.

EdgedError
├── ConfigError     the configuration is wrong; every problem at once
├── BundleError     a model bundle is incomplete, damaged, or not what it says
├── RuntimeMissingError  ONNX Runtime is not installed, or twice
├── DeviceError     the device that was asked for is not what would run
├── JournalError    the journal cannot be opened, or belongs to another daemon
├── SchemaError     the journal was written by a newer edged
├── SourceError     a source cannot be read (its folder is gone, say)
├── SinkError       a sink cannot take records now
│   └── RecordRefusedError  a sink will never take the first of them
├── UnreachableError  a running daemon does not answer
├── RefusedError    what a person asks for cannot be done
└── PictureError    one picture cannot be scored; `reason` is one of REASONS

Setting up raises; a picture that cannot be scored becomes a quarantined result and is counted.
"""

from typing import Final

REASONS: Final = (
    "empty",  # no bytes
    "file_too_large",  # more than limits.max_bytes
    "picture_too_large",  # more than limits.max_pixels
    "undecodable",  # truncated, damaged, or not a picture
    "unsupported",  # a picture of a kind that has no stated rule (32-bit float, LAB, ...), or without what to look at
    "unreadable",  # the system refuses to open or read it
    "decoder_crashed",  # its decoder process died, three times
    "decoder_timeout",  # its decoder took longer than limits.decode_seconds, three times
    "model_failed",  # the model gave no finite score for it, or failed on it three times and on no golden picture
)
"""Why a picture was quarantined: the label `reason` of `edged_quarantined_total`."""


class EdgedError(Exception):
    """What edged raises on purpose; its text says what is wrong, where, and what to do."""


class ConfigError(EdgedError):
    """The configuration is wrong. `problems` holds one line each: `section.key: what is wrong, what to do`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BundleError(EdgedError):
    """A model bundle is incomplete, damaged, or not what it says."""


class RuntimeMissingError(EdgedError):
    """ONNX Runtime is not installed, or both of its packages are."""


class DeviceError(EdgedError):
    """The device that was asked for is not the one that would run."""


class JournalError(EdgedError):
    """The journal cannot be opened, or belongs to another daemon."""


class SchemaError(EdgedError):
    """The journal was written by a newer edged; trying again does not help."""


class SourceError(EdgedError):
    """A source cannot be read."""


class SinkError(EdgedError):
    """A sink cannot take records now; they are given to it again."""


class RecordRefusedError(SinkError):
    """A sink will never take the first of the records that it was given; that one is set aside."""


class UnreachableError(EdgedError):
    """A running daemon does not answer, or not with what it should."""


class RefusedError(EdgedError):
    """What a person asks for cannot be done; the text says why."""


class PictureError(EdgedError):
    """One picture cannot be scored.

    Attributes:
        reason: one of `REASONS`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_expected(error: Exception) -> bool:
    """Whether an error is the system's, a source's or a sink's, which is one line of the log; others are ours."""
    return isinstance(error, JournalError | SourceError | SinkError | OSError)
