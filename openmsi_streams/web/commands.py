"""`openmsi-streams status`: the same answers as the pages, in a terminal. Needs nothing but the producer's packages."""

from __future__ import annotations

import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import click
import msgspec

from openmsi_streams.errors import OpenMSIStreamsError, UsageError
from openmsi_streams.web import names, shape

ON_ITS_WAY = 3
NEEDS_HELP = 4
UNKNOWN = 5
# A worker answers in milliseconds; a network in seconds.
TIMEOUT = 10.0
_BAR = 24
# A producer that runs writes its state file every 5 s.
_STATE_LATE = 60.0
_HELP_CODES = """\b
Exit codes, for scripts:
  0  all is well; a PATH that was given is delivered
  1  the worker could not be asked
  2  wrong usage
  3  the PATH is still on its way
  4  something is stalled or quarantined, or an instrument is late
  5  no worker knows the PATH
"""


class Unreachable(OpenMSIStreamsError):
    """The worker's API did not answer."""


class Client:
    """Asks a worker's API."""

    def __init__(self, url: str, token: str = "") -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise UsageError(f"The address {url!r} is not a web address. Write it like http://127.0.0.1:6066.")
        self.url = url.rstrip("/")
        self._token = token

    def get(self, path: str, /, **parameters: str) -> dict[str, Any]:
        """Return the JSON of an answer, errors of the API's own shape included.

        Raises:
            Unreachable: if nobody answers there, or somebody else does.
        """
        query = {name: value for name, value in parameters.items() if value}
        address = f"{self.url}{path}{'?' + urlencode(query) if query else ''}"
        request = urllib.request.Request(address, headers={"Accept": "application/json"})
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            body = error.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"No worker answered at {self.url} ({getattr(error, 'reason', error)}). Start one with "
                "`openmsi-streams worker`, or name its address with --url."
            ) from None
        try:
            found = msgspec.json.decode(body)
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, dict) or "ok" not in found:
            raise Unreachable(f"What answers at {self.url} is not a worker of openmsi_streams. Check --url.")
        if found["ok"] is False and found.get("status") in (401, 403, 429):
            raise Unreachable(f"{found['error']} {found['hint']}")
        return found


@click.command(epilog=_HELP_CODES)
@click.argument("path", required=False, default="")
@click.option("--topic", default="", help="Only this topic.")
@click.option("--state", default="", help="Only these states, with commas between; `open`: all that are not settled.")
@click.option("--instrument", is_flag=True, help="Show the producers and their heartbeats instead of files.")
@click.option(
    "--watch", "watching", is_flag=True, help="Show again and again until Ctrl-C; with PATH, until it is settled."
)
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds between.")
@click.option("--json", "as_json", is_flag=True, help="Print data instead of a table, one document a line.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="Files in the table.")
@click.option("--url", default="", help="Address of any worker.  [default: from the settings, http://127.0.0.1:6066]")
@click.option("--token-file", default="", help="File that holds the worker's web.token.  [default: from the settings]")
@click.option("--config", "config_path", default=None, help="Settings file.")
def status(
    path: str,
    topic: str,
    state: str,
    instrument: bool,
    watching: bool,
    interval: float,
    as_json: bool,
    limit: int,
    url: str,
    token_file: str,
    config_path: str | None,
) -> int:
    """Show where files are: all that matter now, or every version of one PATH (below the watched folder)."""
    if path and instrument:
        raise UsageError("Give a PATH or --instrument, not both.")
    client, here = _client(url, token_file, config_path)
    while True:
        if path:
            document, text, code = _one(client, topic, path)
        elif instrument:
            document, text, code = _instruments(client, topic, here)
        else:
            document, text, code = _all(client, topic, state, limit)
        if as_json:
            text = msgspec.json.encode(document).decode()
        if watching and not as_json and sys.stdout.isatty():
            # Home, text, erase what is left of the screen before: no flicker.
            text = "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[K\n\x1b[J"
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            click.echo(_printable(text))
        if not watching or (path and code in (0, NEEDS_HELP)):
            return code
        time.sleep(interval)


def _client(url: str, token_file: str, config_path: str | None) -> tuple[Client, Path]:
    """Return the worker to ask, and the folder with the state of the producers of this machine."""
    from openmsi_streams.config.load import load
    from openmsi_streams.producers.state import base_folder

    everything = load(config_path)
    settings = everything.web
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    token = settings.token
    if token_file:
        try:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(
                f"The token file {token_file!r} cannot be read: {error.strerror}. Check its name."
            ) from None
    client = Client(url or settings.public_url or f"http://{host}:{settings.port}", token)
    return client, base_folder(everything.producer.state)


def _problem(found: dict[str, Any]) -> Unreachable:
    return Unreachable(f"{found.get('error', 'The worker could not answer.')} {found.get('hint', '')}".strip())


Answer = tuple[dict[str, Any], str, int]


def _one(client: Client, topic: str, path: str) -> Answer:
    found = client.get("/api/v1/lookup", path=path.replace("\\", "/").removeprefix("./"), topic=topic)
    if not found["ok"]:
        if found.get("status") == 404:
            return found, f"{names.visible(path)}: not known to any worker", UNKNOWN
        raise _problem(found)
    items = found["items"]
    newest = items[0]
    lines = []
    for item in items:
        lines.append(_line(item, width=_width()))
        stores = ", ".join(f"{delivery['store']} {names.visible(delivery['url'])}" for delivery in item["deliveries"])
        lines.append(f"    version {item['sha512'][:12]}  {shape.time_text(item['updated'])}  {stores}".rstrip())
        if item["reason"] or item["message"]:
            lines.append(f"    {item['reason']}: {names.visible(item['message'])} {item['cure']}".rstrip())
        missing = shape.gaps(item)
        if missing and item["state"] in ("receiving", "stalled"):
            shown = " ".join(f"{start}-{'?' if end < 0 else end}" for start, end in missing[:8])
            lines.append(f"    missing bytes {shown}{' ...' if len(missing) > 8 else ''}")
    code = {"delivered": 0, "stalled": NEEDS_HELP, "quarantined": NEEDS_HELP}.get(newest["state"], ON_ITS_WAY)
    return found, "\n".join(lines), code


def _all(client: Client, topic: str, state: str, limit: int) -> Answer:
    overview = client.get("/api/v1/overview")
    # What is on its way comes first; a busy instrument delivers more than fits on a screen.
    moving = client.get("/api/v1/files", topic=topic, state=state or "open", limit=str(limit))
    files = moving if state else client.get("/api/v1/files", topic=topic, limit=str(limit))
    for found in (overview, moving, files):
        if not found["ok"]:
            if found.get("status") == 400:
                raise UsageError(f"{found['error']} {found['hint']}")
            raise _problem(found)
    items = list({item["file_id"]: item for item in [*moving["items"], *files["items"]]}.values())[:limit]
    sums = overview["states"]
    if topic:
        chosen = [entry for entry in overview["topics"] if entry["topic"] == topic]
        sums = chosen[0]["states"] if chosen else {}
    head = "  ".join(f"{name} {sums[name]['files']}" for name in overview["states"] if sums.get(name, {}).get("files"))
    rate = sum(entry["rate"] for entry in overview["topics"] if topic in ("", entry["topic"]))
    lines = [f"{head or 'no files'}   {shape.bytes_text(rate)}/s", ""]
    lines += [_line(item, width=_width()) for item in items]
    if files["next"] or len(items) < len(files["items"]):
        lines.append(f"... and older ones; --limit shows more, {client.url}/files/ all")
    lines += [f"note: {names.visible(note)}" for note in files["notes"]]
    trouble = any(sums.get(name, {}).get("files") for name in ("stalled", "quarantined"))
    document = {"ok": True, "states": sums, "items": items, "next": files["next"], "notes": files["notes"]}
    return document, "\n".join(lines), NEEDS_HELP if trouble else 0


def _instruments(client: Client, topic: str, here: Path) -> Answer:
    local = [state for state in _local_states(here) if topic in ("", state["topic"])]
    lines = []
    for state in local:
        files = "  ".join(f"{name} {count}" for name, count in state.get("files", {}).items())
        lines.append(f"here: {names.visible(state['folder'])}: {state['condition']}  {files}".rstrip())
        if state.get("problem"):
            lines.append(f"    {names.visible(str(state['problem']))}")
    producers: list[dict[str, Any]] = []
    try:
        found = client.get("/api/v1/overview")
        if not found["ok"]:
            raise _problem(found)
        producers = [producer for producer in found["producers"] if topic in ("", producer["topic"])]
    except Unreachable as error:
        # An instrument PC often cannot reach a worker; what its own producers say is worth as much.
        if not local:
            raise
        lines.append(f"note: {error}")
    if producers or not local:
        lines.append(f"{'producer':<32} {'topic':<20} {'heartbeat':>12}  since the one before")
    for producer in producers:
        sent = producer["values"].get("n_bytes_produced")
        age = f"{shape.seconds_text(producer['age'])} ago"
        lines.append(
            f"{names.visible(producer['id'])[:32]:<32} {producer['topic'][:20]:<20} {age:>12}  "
            f"{shape.bytes_text(sent) if isinstance(sent, int | float) else '?'}{'  LATE' if producer['late'] else ''}"
        )
    if not producers and not local:
        lines.append("No producer has sent a heartbeat yet.")
    trouble = any(producer["late"] for producer in producers) or any(state["condition"] != "ok" for state in local)
    return {"ok": True, "here": local, "producers": producers}, "\n".join(lines), NEEDS_HELP if trouble else 0


def _local_states(here: Path) -> list[dict[str, Any]]:
    """Return what the producers of this machine last wrote to their state files; old ones are `stopped`."""
    states = []
    for path in sorted(here.glob("*/state.json")):
        try:
            state = msgspec.json.decode(path.read_bytes())
            age = time.time() - path.stat().st_mtime
        except (OSError, msgspec.DecodeError):
            continue
        if not isinstance(state, dict):
            continue
        condition = str(state.get("condition") or "unknown") if age < _STATE_LATE else "stopped"
        more = {"folder": path.parent.name, "age": round(age, 1), "condition": condition}
        states.append({**state, "topic": str(state.get("topic") or ""), **more})
    return states


def _width() -> int:
    return max(60, shutil.get_terminal_size((100, 24)).columns)


def bar(item: dict[str, Any], cells: int = _BAR) -> str:
    """Return a progress bar that shows which ranges have arrived: full, partly full and empty cells."""
    out = []
    pieces = shape.bar(item)
    for cell in range(cells):
        left, right = 100.0 * cell / cells, 100.0 * (cell + 1) / cells
        there = sum(max(0.0, min(right, start + width) - max(left, start)) for start, width in pieces)
        share = there / (right - left)
        out.append("█" if share > 0.99 else "▒" if share > 0.01 else "·")
    return "".join(out)


def _line(item: dict[str, Any], width: int) -> str:
    fraction = shape.fraction(item)
    percent = "   ?" if fraction is None else f"{int(fraction * 100):>3}%"
    size = shape.bytes_text(item["bytes"])
    head = f"{item['state']:<11} {bar(item)} {percent} {size:>9}  "
    name = names.visible(f"{item['topic']}: {item['path']}")
    room = max(20, width - len(head))
    if len(name) > room:
        name = f"{name[: room // 2 - 1]}…{name[-(room - room // 2) :]}"
    return head + name


def _printable(text: str) -> str:
    """Replace what the terminal's encoding lacks (a Windows console without UTF-8)."""
    encoding = sys.stdout.encoding or "utf-8"
    for sign, plain in (("█", "#"), ("▒", "+"), ("·", "."), ("…", "~")):
        try:
            sign.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            text = text.replace(sign, plain)
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text
