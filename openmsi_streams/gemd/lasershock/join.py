"""Tie the laboratory's experiments to the records of their files, by base name or by shot id."""

from __future__ import annotations

from typing import Any

from openmsi_streams.gemd import ids
from openmsi_streams.gemd.lasershock.model import Built


def join(built: Built, files: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Give the model's objects with file links, and how many experiments found a file.

    An experiment names its files without folder or store. A file record fits when the base name of one of its links is
    that name, with or without ending, or when its shot id is. The experiment then gets the link's URL, a tag
    ``openmsi.file_record::<uid>`` for each, and the shot id.

    Args:
        built: the model.
        files: objects of file records, as :func:`openmsi_streams.gemd.read.merge` gives them.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for item in files:
        tags = item.get("tags") or []
        if item.get("type") == "measurement_run" and "openmsi.record::file" in tags:
            names = {str(link.get("filename", "")).lower() for link in item.get("file_links") or []}
            names |= {name.rpartition(".")[0] for name in names if "." in name}
            names |= {tag[len("openmsi.shot::") :].lower() for tag in tags if str(tag).startswith("openmsi.shot::")}
            for name in names - {""}:
                by_name.setdefault(name, []).append(item)
    joined = 0
    made = []
    for item in built.objects:
        wanted = built.filenames.get(item["uids"][ids.SCOPE], [])
        found = list({id(record): record for name in wanted for record in _matches(name, by_name)}.values())
        if found:
            joined += 1
            item = _tied(item, found)
        made.append(item)
    return made, joined


def _matches(name: str, by_name: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    base = name.replace("\\", "/").rpartition("/")[2].lower()
    return by_name.get(base) or by_name.get(base.rpartition(".")[0]) or []


def _tied(item: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    records = sorted(records, key=lambda record: str(record["uids"][ids.SCOPE]))
    tags = list(item.get("tags") or [])
    links = list(item.get("file_links") or [])
    for record in records:
        tags.append(f"openmsi.file_record::{record['uids'][ids.SCOPE]}")
        tags += [tag for tag in record.get("tags") or [] if str(tag).startswith("openmsi.shot::")]
        links += (record.get("file_links") or [])[:1]
    return {**item, "file_links": links, "tags": list(dict.fromkeys(tags))[: ids.TAGS_MAX]}
