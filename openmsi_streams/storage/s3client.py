"""A boto3 client made from settings, and its errors in our words, without secrets."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)

from openmsi_streams.config.settings import S3Settings
from openmsi_streams.errors import StoreError
from openmsi_streams.storage.base import NoUpload, StoreUnavailable

T = TypeVar("T")

# A server that says nothing for so long is taken as down; the call is made again. Completing a large upload is silent
# work on servers that copy the parts together (20 GB at 200 MB/s take 100 s).
_CONNECT_SECONDS = 10
_READ_SECONDS = 120
# botocore's standard mode: tries of one call, with exponential back-off between them (20 s at most).
_TRIES = 5

# Headers that carry the checksum of a body.
_CHECKSUMS = ("Content-MD5", "x-amz-checksum-sha256", "x-amz-checksum-crc64nvme")

_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_REFUSED_NAME = frozenset({"InvalidObjectName", "XMinioInvalidObjectName", "KeyTooLongError", "InvalidURI"})
_TOO_LARGE = frozenset({"EntityTooLarge", "MetadataTooLarge"})
# (codes, cure, seconds to the next try): what a person has to mend; the file waits.
_CURES: tuple[tuple[frozenset[str], str, float], ...] = (
    (
        frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "401"}),
        "The server does not accept the credentials: check s3.{name}.access_key_id, secret_access_key and "
        "session_token, or the profile.",
        30.0,
    ),
    (
        frozenset({"AccessDenied", "403", "AllAccessDisabled", "AccountProblem"}),
        "The credentials may not do this: allow s3:GetObject, s3:PutObject, s3:AbortMultipartUpload, s3:ListBucket, "
        "s3:ListBucketMultipartUploads and s3:ListMultipartUploadParts on the bucket, and check its name.",
        30.0,
    ),
    (frozenset({"NoSuchBucket"}), "Create the bucket or mend s3.{name}.bucket.", 30.0),
    (
        frozenset({"RequestTimeTooSkewed", "RequestExpired"}),
        "The clock of this machine and the server's differ: set it (NTP), the server refuses requests until then.",
        30.0,
    ),
    (
        frozenset({"PermanentRedirect", "IllegalLocationConstraintException", "AuthorizationHeaderMalformed"}),
        "The bucket is in another region: set s3.{name}.region.",
        30.0,
    ),
    (frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "507"}), "The server is full.", 60.0),
    (frozenset({"SlowDown", "503", "Throttling", "TooManyRequests", "429"}), "The server is overloaded.", 5.0),
)


class Absent(StoreError):
    """There is no such object."""


class Conflict(StoreUnavailable):
    """Something else was written to the key at the same time."""


class Unsupported(StoreError):
    """The server does not know what was asked of it."""


class Rejected(StoreUnavailable):
    """The server says that the bytes it received are not those that were sent."""


def make_client(name: str, settings: S3Settings) -> Any:
    """Return a thread-safe client with a bounded pool of connections, time limits and retries.

    Raises:
        StoreError: the profile or CA bundle is not there, or the endpoint is not a URL.
    """
    import boto3
    from botocore.config import Config

    for library in ("boto3", "botocore", "s3transfer", "urllib3"):
        # Their debug lines hold whole requests with signatures and session tokens.
        if logging.getLogger(library).level == logging.NOTSET:
            logging.getLogger(library).setLevel(logging.INFO)

    if settings.ca and not Path(settings.ca).is_file():
        raise StoreError(f"The CA bundle s3.{name}.ca = {settings.ca} is not there. Mend the path.")
    config = Config(
        region_name=settings.region or None,
        signature_version="s3v4",
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        # Parts, small files and checks of several worker threads at once.
        max_pool_connections=2 * settings.parallel + 8,
        retries={"mode": "standard", "max_attempts": _TRIES},
        s3={"addressing_style": "path" if settings.path_style else "auto"},
        # Checksums are ours to choose: servers that are not Amazon's refuse the trailing ones that boto3 would add.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        user_agent_extra="openmsi-streams",
    )
    keys: dict[str, Any] = {}
    if settings.access_key_id or settings.secret_access_key:
        keys = {
            "aws_access_key_id": settings.access_key_id or None,
            "aws_secret_access_key": settings.secret_access_key or None,
            "aws_session_token": settings.session_token or None,
        }
    try:
        session = boto3.session.Session(profile_name=settings.profile or None if not keys else None)
        client = session.client(
            "s3", endpoint_url=settings.endpoint or None, config=config, verify=settings.ca or None, **keys
        )
    except ProfileNotFound:
        raise StoreError(
            f"s3.{name}.profile = {settings.profile!r} is not in the AWS credential files. Add it or mend the name."
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise StoreError(f"The settings of s3.{name} do not make a client: {error}. Mend s3.{name}.endpoint.") from None
    unsigned = Config(s3={"payload_signing_enabled": False})

    def sign_checksum_only(request: Any, **_: Any) -> None:
        """Hash a body once: its checksum is in a header that is signed. botocore does so itself over https alone."""
        if any(header in request.headers for header in _CHECKSUMS):
            request.context["client_config"] = unsigned

    for call in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-sign.s3.{call}", sign_checksum_only)
    return client


class Calls:
    """Runs calls of a client and turns what goes wrong into our errors."""

    def __init__(self, name: str, settings: S3Settings) -> None:
        """Take the store's name and settings; nothing is contacted."""
        self.name = name
        self.bucket = settings.bucket
        self.where = f"S3 store {name!r} ({settings.endpoint or 'AWS'}, bucket {settings.bucket!r})"
        self._secrets = secrets_of(settings)

    def run(self, what: str, call: Callable[[], T]) -> T:
        """Return the call's result.

        Args:
            what: the end of the sentence "The S3 store did not ...".
            call: calls boto3 once; boto3 retries by itself.

        Raises:
            Absent, NoUpload, Conflict, Unsupported, Rejected, StoreUnavailable, StoreError: by the server's answer.
        """
        try:
            return call()
        except ClientError as error:
            raise self._from_answer(what, error) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise StoreUnavailable(
                f"The {self.where} did not {what}: no credentials were found. Set s3.{self.name}.access_key_id and "
                f"secret_access_key (environment: OPENMSI_STREAMS__S3__{self.name.upper()}__SECRET_ACCESS_KEY), or a "
                "profile.",
                30.0,
            ) from None
        except SSLError as error:
            raise StoreUnavailable(
                f"The {self.where} did not {what}: its certificate is not trusted ({self.clean(error)}). Set "
                f"s3.{self.name}.ca to the CA that signed it.",
                30.0,
            ) from None
        except (BotoCoreError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise StoreUnavailable(
                f"The {self.where} did not {what}: it does not answer ({self.clean(error)}). Check that it runs and "
                "can be reached from here.",
                5.0,
            ) from None

    def _from_answer(self, what: str, error: ClientError) -> StoreError:
        answer = error.response.get("Error", {})
        code = str(answer.get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
        said = self.clean(f"{code}: {answer.get('Message', '')}".rstrip(": "))
        text = f"The {self.where} did not {what} ({said})."
        if code in _ABSENT:
            return Absent(text)
        if code == "NoSuchUpload":
            return NoUpload(text)
        if code in ("NotImplemented", "501"):
            return Unsupported(f"{text} Another server, or a newer release of it, may.")
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409", "OperationAborted"):
            return Conflict(text, 1.0)
        if code in ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"):
            return Rejected(f"{text} The bytes changed on their way, or the partial file changed.", 2.0)
        if code in ("InvalidPart", "InvalidPartOrder", "EntityTooSmall"):
            return Rejected(f"{text} Its parts are not those that were sent.", 2.0)
        if code in _REFUSED_NAME:
            return StoreError(f"{text} It refuses the object's name; rename the file or change s3.{self.name}.key.")
        if code in _TOO_LARGE:
            return StoreError(f"{text} It does not take objects of this size.")
        for codes, cure, wait in _CURES:
            if code in codes:
                return StoreUnavailable(f"{text} {cure.format(name=self.name)}", wait)
        if status >= 500 or status in (408, 429) or code in ("RequestTimeout", "InternalError"):
            return StoreUnavailable(f"{text} The server has a fault; its log says more.", 5.0)
        # A bare 400 is what a server says that stopped reading a request in its middle.
        return StoreUnavailable(f"{text} The server's log says more.", 2.0 if code == "400" else 30.0)

    def clean(self, error: object) -> str:
        """Return an error's text on one line, with every secret of the settings blotted out."""
        text = " ".join(str(error).split())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        # A URL with a user in it, or a presigned one, would carry more.
        text = re.sub(r"//[^/\s@]+@", "//***@", text)
        return re.sub(r"(?i)(signature|credential|security-token)=[^&\s]+", r"\1=***", text)


def secrets_of(settings: S3Settings) -> list[str]:
    """Return every text that may not be shown: of the settings and, where boto3 reads them, of the environment."""
    values = [settings.secret_access_key, settings.session_token, settings.access_key_id]
    values += [os.environ.get(name, "") for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    return sorted({value for value in values if len(value) >= 4}, key=len, reverse=True)
