"""Why a message or a file cannot be used: a closed set of reasons, each with its cure."""

from __future__ import annotations

from enum import StrEnum

from openmsi_streams.errors import OpenMSIStreamsError


class Reason(StrEnum):
    """The reason codes of quarantined messages and file versions; part of the public interface."""

    NOT_A_CHUNK = "not_a_chunk"
    NULL_VALUE = "null_value"
    BAD_FIELDS = "bad_fields"
    BAD_HASH = "bad_hash"
    BAD_INDEX = "bad_index"
    BAD_OFFSET = "bad_offset"
    CONTRADICTION = "contradiction"
    UNSAFE_PATH = "unsafe_path"
    TOO_LARGE = "too_large"
    KEY_TOO_LARGE = "key_too_large"
    FILE_HASH_MISMATCH = "file_hash_mismatch"
    EXPIRED = "expired"
    LOG_GAP = "log_gap"
    UNEXPECTED_PATH = "unexpected_path"
    NOT_ENCRYPTED = "not_encrypted"
    UNDECRYPTABLE = "undecryptable"
    KEY_NEVER_CAME = "key_never_came"
    PROCESSOR_FAILED = "processor_failed"
    STORE_REFUSED = "store_refused"


CURES: dict[Reason, str] = {
    Reason.NOT_A_CHUNK: "Something that is not a file producer writes to this topic; find it by the key and timestamp.",
    Reason.NULL_VALUE: "A tombstone was written; chunk topics must have cleanup.policy=delete.",
    Reason.BAD_FIELDS: "The sender's format is not that of OpenMSIStream 1.x or openmsipython 0.9.2.3; update it.",
    Reason.BAD_HASH: "The bytes changed before they were sent; the sender's disk or memory may be failing. Send again.",
    Reason.BAD_INDEX: "The sender counts its chunks wrongly; update it, then send the file again.",
    Reason.BAD_OFFSET: "The sender's offsets cannot be those of such a file; update it, then send the file again.",
    Reason.CONTRADICTION: "Two messages disagree about one file; send the file again.",
    Reason.UNSAFE_PATH: "The path would leave the store or cannot exist on every system; rename the file, send again.",
    Reason.TOO_LARGE: "Raise `chunks.max_file_bytes`, then replay.",
    Reason.KEY_TOO_LARGE: "The sender's key is longer than any path; update it, then send the file again.",
    Reason.FILE_HASH_MISMATCH: "The file changed while it was being sent; send it again.",
    Reason.EXPIRED: "The sender stopped before the file was whole; start it again or send the file again.",
    Reason.LOG_GAP: "The topic's retention removed chunks before they were read; send the file again.",
    Reason.UNEXPECTED_PATH: "No rule expects this path; add one to `worker.expected_paths`, then replay.",
    Reason.NOT_ENCRYPTED: "On this topic every message must be encrypted; provision the sender.",
    Reason.UNDECRYPTABLE: "Check the provisioning of this node (`openmsi-streams crypto check`), then replay.",
    Reason.KEY_NEVER_CAME: "Start the producer that holds the key, or add its vault entry, then replay.",
    Reason.PROCESSOR_FAILED: "Mend the processor, then replay the file.",
    Reason.STORE_REFUSED: "Mend the store or the name, then replay the file.",
}


class Unusable(OpenMSIStreamsError):
    """A message that cannot be used; it goes to quarantine with this reason."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(f"{what} {CURES[reason]}")
        self.reason = reason
        self.what = what
