"""The error families: every error a person can meet says what happened, the usual cause, and the cure."""

from __future__ import annotations

from typing import ClassVar


class OpenMSIStreamsError(Exception):
    """Any error of this program that its user can act on.

    The command line prints the message as one line, without a traceback, and exits with ``exit_code``.
    """

    exit_code: ClassVar[int] = 1


class UsageError(OpenMSIStreamsError):
    """The command was given something it cannot work with (a path that does not exist, an unknown option value)."""

    exit_code: ClassVar[int] = 2


class ConfigurationError(UsageError):
    """A setting is wrong, missing or contradicts another; found before anything starts."""


class BrokerError(OpenMSIStreamsError):
    """The Kafka broker cannot be reached, refuses us, or disagrees with our settings."""


class TopicError(BrokerError):
    """A topic is missing, misnamed or laid out so that the worker would go wrong."""


class TopicNameError(TopicError, UsageError):
    """A name that Kafka refuses for a topic."""


class StoreError(OpenMSIStreamsError):
    """A store (disk or S3) did not take or give back a file."""


class IntegrityError(OpenMSIStreamsError):
    """Bytes are not what their hash or size says."""


class CryptoError(OpenMSIStreamsError):
    """Keys, chains or messages cannot be used."""


class AnalysisError(OpenMSIStreamsError):
    """A measurement cannot be read or analysed."""


class RecordError(OpenMSIStreamsError):
    """A GEMD record, vocabulary or mapping is wrong."""


class ServiceError(OpenMSIStreamsError):
    """An operating-system service or an embedded server did not do what was asked."""


class ExtraMissing(UsageError):
    """A part of the program was asked for whose packages are not installed."""

    def __init__(self, what: str, extra: str, missing: str = "") -> None:
        super().__init__(
            f"{what} needs packages that are not installed{f' ({missing})' if missing else ''}. "
            f"Install them with: pip install 'openmsi-streams[{extra}]'"
        )
