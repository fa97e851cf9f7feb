"""One exported record being used up: every field is taken, and what nobody took is reported and kept as a tag."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Any

from openmsi_streams.gemd import ids
from openmsi_streams.gemd.lasershock.build import Builder
from openmsi_streams.gemd.lasershock.exported import Record
from openmsi_streams.gemd.values import attribute_json, is_absent, make

# Pictures cannot be exported, and check marks of the operator's checklist say nothing about the shot.
_IGNORED = re.compile(r" Picture$|^Check (?!Vacuum|Plateau)|^Row Number$|^Column Number$")


def _says_nothing(value: Any) -> bool:
    # "None" is an answer of several drop-downs, so it is not among these.
    return is_absent(value) and str(value).strip().lower() != "none" if isinstance(value, str) else is_absent(value)


class Fields:
    """The fields of a record; ``problems`` collects what could not be understood."""

    def __init__(self, record: Record, builder: Builder, problems: list[str]) -> None:
        self._left = dict(record.fields)
        self._builder = builder
        self._problems = problems
        self._record = record
        self.tags: list[str] = []
        for key in ("recordId", "modId"):
            text = self.text(key)
            if text:
                self.tags.append(ids.tag(key, text))
        self.tags.append(ids.tag("ObjectType", record.layout))

    def problem(self, message: str) -> None:
        """Report something about this record."""
        self._problems.append(f"{self._record.where}: {message}")

    def raw(self, key: str) -> Any:
        """Take a field; None where it is absent or says nothing ("", "N/A", "?")."""
        value = self._left.pop(key, None)
        return None if _says_nothing(value) else value

    def text(self, key: str) -> str:
        """Take a field as text, "" where it is absent."""
        value = self.raw(key)
        return "" if value is None else ids.clean(str(value)).strip()

    def choices(self, key: str) -> list[str]:
        """Take a field of check boxes: FileMaker separates them by carriage returns."""
        return [part.strip() for part in re.split(r"[\r\n\v]+", self.text(key)) if part.strip()]

    def date(self, key: str) -> str | None:
        """Take a date; FileMaker writes month/day/year, GEMD wants year-month-day."""
        text = self.text(key)
        if not text:
            return None
        for form in ("%m/%d/%Y", "%Y-%m-%d", "%m/%d/%y", "%m/%d/%Y %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
            try:
                moment = datetime.datetime.strptime(text, form)
            except ValueError:
                continue
            return moment.strftime("%Y-%m-%dT%H:%M:%S" if "%H" in form else "%Y-%m-%d")
        self.problem(f"{key} = {text!r} is no date (month/day/year)")
        self.tags.append(ids.tag(key, text))
        return None

    def source(self, by: str = "Performed By", date: str = "Date") -> dict[str, Any] | None:
        """Take who and when."""
        person, day = self.text(by), self.date(date)
        made = ids.prune({"performed_by": person or None, "performed_date": day})
        return {**made, "type": "performed_source"} if made else None

    def tag(self, *keys: str) -> None:
        """Take fields into tags."""
        for key in keys:
            text = self.text(key)
            if text:
                self.tags.append(ids.tag(key, text))

    def number(self, key: str) -> float | None:
        """Take a number, reporting what is none."""
        value = self.raw(key)
        if value is None:
            return None
        try:
            return float(value)
        except (TypeError, ValueError):
            self.problem(f"{key} = {value!r} is no number")
            self.tags.append(ids.tag(key, str(value)))
            return None

    def attributes(self, kind: str, entries: Iterable[Any], *, origin: str = "specified") -> list[dict[str, Any]]:
        """Take fields as attributes of one kind.

        An entry is a key, or (key, vocabulary name), or (key, vocabulary name, unit of the field). A second field on
        one template keeps its own name and goes without template, because GEMD allows a template once.
        """
        made: list[dict[str, Any]] = []
        used: set[str] = set()
        for entry in entries:
            key, name, unit = (entry, entry, "") if isinstance(entry, str) else (*entry, "")[:3]
            value = self._left.pop(key, None)
            known = self._builder.vocabulary.attributes[kind, name].choices  # type: ignore[index]
            if _says_nothing(value) and value not in known:
                continue
            body = self._attribute(kind, key, name, unit, value, origin)
            if body is None:
                continue
            template = (body.get("template") or {}).get("id", "")
            if template and template in used:
                del body["template"]
            used.add(template)
            made.append(body)
        return made

    def _attribute(self, kind: str, key: str, name: str, unit: str, value: Any, origin: str) -> dict[str, Any] | None:
        attribute = self._builder.vocabulary.attributes[kind, name]  # type: ignore[index]
        if attribute.form == "integer" and isinstance(value, str) and ":" in value:
            value = value.split(":")[0]  # minutes, exported as 05:00:00
        result = make(attribute, value, unit=unit or attribute.unit)
        if result.value is not None:
            self._builder.attribute(attribute.encoded)
            return {**attribute_json(attribute, result.value, origin), "name": ids.name(key)}
        if attribute.form == "choice" and isinstance(value, str | int | float):
            # The drop-down has grown since; the text is right, only the list is old.
            self.problem(f"{key} = {str(value)!r} is not among the known choices; kept as text")
            body = {"category": ids.clean(str(value)).strip(), "type": "nominal_categorical"}
            # gemd checks an attribute by its name against the object's template, so it gets another name.
            return {"name": ids.name(f"{key} (as recorded)"), "origin": origin, "type": kind, "value": body}
        self.problem(f"{key} = {value!r} is {(result.problem or '').replace('_', ' ')}; left out")
        self.tags += [ids.tag(f"openmsi.{result.problem}", key), ids.tag(key, str(value))]
        return None

    def rest(self) -> None:
        """Report the fields that nobody took and keep them as tags."""
        for key in list(self._left):
            if _IGNORED.search(key):
                del self._left[key]
                continue
            value = self._left.pop(key)
            self._problems.append(f"{self._record.where}: unknown field {key!r} = {str(value)[:60]!r}; kept as a tag")
            if not _says_nothing(value):
                self.tags.append(ids.tag(f"unknown.{key}", str(value)))
        self.tags = list(dict.fromkeys(self.tags))
        if len(self.tags) > ids.TAGS_MAX:
            self.problem(f"{len(self.tags)} tags are too many; the last are dropped")
            self.tags = self.tags[: ids.TAGS_MAX]
