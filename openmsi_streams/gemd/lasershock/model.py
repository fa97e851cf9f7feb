"""From exported records to the linked model: stock, flyer stacks, samples, launch packages, experiments.

The chain of one shot: glass, foil and mixed epoxy become a stack, cut into flyers; a chosen flyer, a cut spacer and a
cut and polished piece of the sample become the launch package; the experiment is measured on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from openmsi_streams.gemd import ids
from openmsi_streams.gemd.lasershock import history, launch, steps
from openmsi_streams.gemd.lasershock.build import Builder, Product, StepSpec
from openmsi_streams.gemd.lasershock.exported import Record
from openmsi_streams.gemd.lasershock.fields import Fields
from openmsi_streams.gemd.vocabulary import Vocabulary, shipped


class Stock(NamedTuple):
    """A purchased material: its specs, and its name."""

    spec: StepSpec
    name: str


class Program(NamedTuple):
    """A cutting program: its settings, to be copied and overwritten by the step that uses it."""

    name: str
    conditions: list[dict[str, Any]]
    parameters: list[dict[str, Any]]
    tags: list[str]


class Built(msgspec.Struct):
    """The model: objects as JSON, what could not be understood, and for each experiment the file names it gives."""

    objects: list[dict[str, Any]]
    problems: list[str]
    filenames: dict[str, list[str]]
    counts: dict[str, int]


class Stores:
    """What later records refer to by name."""

    def __init__(self, builder: Builder, problems: list[str]) -> None:
        self.builder = builder
        self.problems = problems
        self.stock: dict[tuple[str, str], Stock] = {}
        self.programs: dict[tuple[str, str], Program] = {}
        self.products: dict[tuple[str, str], Product] = {}
        self.filenames: dict[str, list[str]] = {}

    def stock_named(self, layout: str, name: str, fields: Fields) -> Stock | None:
        """Give a purchased material by name; a stand-in where no record describes it."""
        if not name:
            return None
        if (layout, name) not in self.stock:
            fields.problem(f"no record of {layout} is named {name!r}; a stand-in is used")
            spec = self.builder.step_spec(
                {"name": f"Purchasing {name}", "tags": ["openmsi.stub"]},
                {"name": name, "tags": ["openmsi.stub"], "template": self.builder.template("material", layout)},
                [],
                process_uid=self.builder.uid(layout, name, "purchase spec"),
                material_uid=self.builder.uid(layout, name, "spec"),
            )
            self.stock[layout, name] = Stock(spec, name)
        return self.stock[layout, name]

    def product_named(self, layout: str, name: str, fields: Fields) -> Product | None:
        """Give a made material by name; a stand-in where no record describes it."""
        if not name:
            return None
        if (layout, name) not in self.products:
            fields.problem(f"no record of {layout} is named {name!r}; a stand-in is used")
            stub = ["openmsi.stub"]
            spec = self.builder.step_spec(
                {"name": f"Unrecorded {layout}", "tags": stub}, {"name": layout, "tags": stub}, []
            )
            made = self.builder.step_run(
                spec,
                (layout, name),
                {"name": f"Unrecorded {layout}", "tags": stub},
                {"name": f"{layout} {name}", "tags": stub},
                [],
                **{SCOPES[layout]: name},
            )
            self.products[layout, name] = made
        return self.products[layout, name]


# Ids of the laboratory that a file's record may carry as its sample; "__" stands for the dot in keyword arguments.
SCOPES = {"Sample": "lab__sample_name", "Flyer Stack": "lab__flyer_id", "Launch Package": "lab__launch_id"}

_STOCK: dict[str, tuple[str, str, str, list[Any], list[str]]] = {
    # layout: name key, lab's id key, what is bought, properties, parameters of the purchase
    "Glass ID": (
        "Glass name",
        "Glass ID",
        "Glass",
        ["Glass Thickness", "Glass Length", "Glass Width"],
        ["Glass Supplier", "Glass Part Number"],
    ),
    "Foil ID": (
        "Foil Name",
        "Foil ID",
        "Foil",
        ["Foil Thickness", "Foil Length", "Foil Width", "Foil Hardness", "Foil Material"],
        ["Foil Supplier", "Foil Part Number"],
    ),
    "Epoxy ID": ("Epoxy Name", "Epoxy ID", "Epoxy", [], ["Epoxy Supplier"]),
    "Spacer ID": (
        "Spacer Name",
        "Spacer ID",
        "Spacer",
        ["Spacer Thickness", "Spacer Material", ("Spacer Adhesive", "Spacer Adhesive Sides"), "Adhesive Type"],
        ["Spacer Supplier", "Spacer Part Number"],
    ),
}

_PROGRAMS = {
    "Flyer Cutting Program": ("Program name", "Flyer Cutting ID", "Description"),
    "Spacer Cutting Program": ("Program Name", "Spacer Cutting ID", "Spacer Description"),
}

_MAKERS: dict[str, Callable[[Fields, Stores], None]] = {
    "Flyer Stack": history.flyer_stack,
    "Sample": history.sample,
    "Launch Package": launch.launch_package,
    "Experiment": launch.experiment,
}

# Each layout after those that it refers to.
ORDER = (*_STOCK, *_PROGRAMS, "Flyer Stack", "Sample", "Launch Package", "Experiment")


def build(records: Iterable[Record], namespace: str = ids.DEFAULT_NAMESPACE) -> Built:
    """Make the linked GEMD model of exported records.

    The same records give the same uids and bytes, in any order. Nothing is dropped: what cannot be understood is in
    ``problems`` and stays as a tag of its object.
    """
    space = ids.namespace(namespace)
    vocabulary = Vocabulary.build([shipped("laser_shock")], space)
    problems: list[str] = []
    builder = Builder(vocabulary, space)
    stores = Stores(builder, problems)
    counts: dict[str, int] = {}
    for record in _ordered(records, problems):
        fields = Fields(record, builder, problems)
        if record.layout in _STOCK:
            _stock(fields, record.layout, stores)
        elif record.layout in _PROGRAMS:
            _program(fields, record.layout, stores)
        else:
            _MAKERS[record.layout](fields, stores)
        counts[record.layout] = counts.get(record.layout, 0) + 1
    return Built(list(builder.objects.values()), problems, stores.filenames, counts)


def _ordered(records: Iterable[Record], problems: list[str]) -> list[Record]:
    """Put records in order of reference, each once: of two with one record number the later edit counts."""
    latest: dict[tuple[str, str], Record] = {}
    for record in records:
        number = str(record.fields.get("recordId") or "")
        key = (record.layout, number or msgspec.json.encode(record.fields, order="sorted").decode())
        old = latest.get(key)
        if old is not None and old.fields != record.fields:
            problems.append(f"{record.where}: record {number} is exported twice; the later edit (modId) is used")
        if old is None or _edit(record) >= _edit(old):
            latest[key] = record
    return sorted(latest.values(), key=lambda item: (ORDER.index(item.layout), _sort_key(item)))


def _edit(record: Record) -> int:
    text = str(record.fields.get("modId") or "0")
    return int(text) if text.isdecimal() else 0


def _sort_key(record: Record) -> tuple[int, str]:
    number = str(record.fields.get("recordId") or "")
    return (int(number) if number.isdecimal() else 0, msgspec.json.encode(record.fields, order="sorted").decode())


def _stock(fields: Fields, layout: str, stores: Stores) -> None:
    name_key, id_key, what, properties, parameters = _STOCK[layout]
    builder = stores.builder
    name, notes = fields.text(name_key) or f"Unnamed {what}", fields.text("Description")
    identifier = fields.text(id_key)
    if identifier:
        fields.tags.append(ids.tag(id_key.replace(" ", ""), identifier))
    if (layout, name) in stores.stock:
        fields.problem(f"a second record of {layout} is named {name!r}; it is not used")
        return
    measured = fields.attributes("property", properties)
    bought = fields.attributes("parameter", parameters)
    fields.rest()
    spec = builder.step_spec(
        {
            "name": f"Purchasing {what}",
            "parameters": bought,
            "template": builder.template("process", f"Purchasing {what}"),
        },
        {
            "name": name,
            "notes": notes,
            "properties": [{"property": item, "type": "property_and_conditions"} for item in measured],
            "tags": fields.tags,
            "template": builder.template("material", layout),
        },
        [],
        process_uid=builder.uid(layout, name, "purchase spec"),
        material_uid=builder.uid(layout, name, "spec"),
    )
    stores.stock[layout, name] = Stock(spec, name)


def _program(fields: Fields, layout: str, stores: Stores) -> None:
    name_key, id_key, notes_key = _PROGRAMS[layout]
    name = fields.text(name_key) or f"Unnamed {layout}"
    fields.tag(id_key, "Version Date", "Program Filename")
    notes = fields.text(notes_key)
    conditions = fields.attributes("condition", ["Cutting Method", "Typical Cutting Time", *steps.tool(layout)])
    passes: list[Any] = ["Number of Passes"]
    if layout == "Spacer Cutting Program":
        passes = [(f"Number of Passes {place}", "Number of Passes") for place in (1, 2, 3)]
    parameters = fields.attributes("parameter", ["Laser Cutting Energy", *passes, "Aperture Setting", "Depth of Cut"])
    fields.rest()
    builder = stores.builder
    if (layout, name) in stores.programs:
        fields.problem(f"a second record of {layout} is named {name!r}; it is not used")
        return
    builder.put(
        {
            "conditions": conditions,
            "name": ids.name(name),
            "notes": notes,
            "parameters": parameters,
            "tags": fields.tags,
            "template": builder.template("process", layout),
            "type": "process_spec",
        },
        builder.uid(layout, name, "spec"),
    )
    stores.programs[layout, name] = Program(name, conditions, parameters, [ids.tag("CuttingProgram", name)])
