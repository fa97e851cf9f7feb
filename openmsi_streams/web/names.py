"""Names from messages, made safe to look at: escaping is the template's work, deceiving characters are ours."""

from __future__ import annotations

import re

# Controls, line separators, and the marks that turn the direction of writing: "gpj.exe" must not read "exe.jpg".
_HIDDEN = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
# A path of 4,000 characters must not push everything else off the screen.
_HEAD, _TAIL = 90, 60


def visible(name: str) -> str:
    """Return the name with every character that hides or turns text written out as ``\\u202e``."""
    return _HIDDEN.sub(lambda found: f"\\u{ord(found.group()):04x}", name)


def short(name: str) -> str:
    """Return the visible name, with the middle left out if it is very long."""
    shown = visible(name)
    if len(shown) <= _HEAD + _TAIL + 1:
        return shown
    return f"{shown[:_HEAD]}…{shown[-_TAIL:]}"
