"""How a launch package comes about, and the experiment that is measured on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmsi_streams.gemd import ids
from openmsi_streams.gemd.lasershock.build import Ingredient, Product
from openmsi_streams.gemd.lasershock.fields import Fields
from openmsi_streams.gemd.lasershock.steps import (
    Body,
    make_step,
    material_body,
    overwritten,
    process_body,
    take_bought,
    take_measured,
)
from openmsi_streams.gemd.vocabulary import KINDS

if TYPE_CHECKING:
    from openmsi_streams.gemd.lasershock.model import Stock, Stores


def launch_package(fields: Fields, stores: Stores) -> None:
    """A chosen flyer, with a spacer and a piece of a sample where the record says so."""
    name = fields.text("Launch ID") or f"unnamed ({fields.text('recordId')})"
    key = ("Launch Package", name)
    if key in stores.products:
        fields.problem(f"a second record of Launch Package is named {name!r}; it is not used")
        return
    source = fields.source()
    fields.tag("Secondary Sample ID")
    stack = stores.product_named("Flyer Stack", fields.text("Flyer ID"), fields)
    with_spacer, with_sample = (fields.text(f"{part} Flag").lower() == "yes" for part in ("Spacer", "Sample"))
    on_spacer = take_measured(
        stores,
        (*key, "spacer"),
        fields,
        [(f"Spacer {side} Diameter", "Spacer Diameter") for side in ("Inner", "Outer")],
        source,
    )
    on_sample = take_measured(stores, (*key, "sample"), fields, ["Sample Diameter", "Sample Thickness"], source)
    choosing = process_body(
        stores,
        "Choosing Flyer",
        "Choosing Flyer",
        parameters=fields.attributes(
            "parameter", [("Flyer Row Location", "Flyer Row"), ("Flyer Column Location", "Flyer Column")]
        ),
    )
    spacer, cutting = _spacer(fields, stores)
    attaching = process_body(
        stores,
        "Attaching Spacer",
        "Attaching Spacer",
        conditions=fields.attributes("condition", ["Spacer Attachment Method"]),
        parameters=fields.attributes("parameter", [("Spacer Attachment Adhesive", "Spacer Adhesive")]),
    )
    specimen, polishing = _specimen(fields, stores)
    joining = process_body(
        stores,
        "Attaching Sample",
        "Attaching Sample",
        parameters=fields.attributes("parameter", [("Sample Impact Orientation", "Sample Orientation")]),
    )
    methods = fields.choices("Sample Attachment Method")
    if methods:
        joining["tags"] = [ids.tag("SampleAttachment", item) for item in methods]
    fields.rest()
    last = "sample" if with_sample else "spacer" if with_spacer else "flyer"

    def finish(part: str, process: Body, output: str, ingredients: list[Ingredient | None]) -> Product:
        final = part == last
        return make_step(
            stores,
            key if final else (*key, part),
            process,
            material_body(stores, "Launch Package" if final else output, "Launch Package" if final else ""),
            ingredients,
            {"tags": fields.tags} if final else None,
            f"Launch Package {name}" if final else "",
            **({"lab__launch_id": name} if final else {}),
        )

    current = finish("flyer", choosing, "Chosen Flyer", [Ingredient("Flyer Stack", stack) if stack else None])
    ingredient = "Chosen Flyer"
    piece = None
    if with_spacer:
        piece = take_bought(stores, key, "Spacer Material", spacer)
        cut = make_step(stores, (*key, "cut spacer"), cutting, material_body(stores, "Cut Spacer"), [piece])
        current = finish(
            "spacer", attaching, "Flyer and Spacer", [Ingredient(ingredient, current), Ingredient("Cut Spacer", cut)]
        )
        ingredient = "Flyer and Spacer"
    impact = None
    if with_sample:
        impact = make_step(
            stores,
            (*key, "impact sample"),
            polishing,
            material_body(stores, "Impact Sample", "Impact Sample"),
            [Ingredient("Sample", specimen) if specimen else None],
            run_name=f"Impact Sample of {name}",
        )
        current = finish("sample", joining, "", [Ingredient(ingredient, current), Ingredient("Impact Sample", impact)])
    stores.products[key] = current
    on_spacer(piece.product if piece else None, f"the spacer of {name}")
    on_sample(impact, f"the impact sample of {name}")


def _spacer(fields: Fields, stores: Stores) -> tuple[Stock | None, Body]:
    spacer = stores.stock_named("Spacer ID", fields.text("Spacer Type"), fields)
    program_name = fields.text("Spacer Cutting Program")
    program = stores.programs.get(("Spacer Cutting Program", program_name))
    if program_name and program is None:
        fields.problem(f"no record of Spacer Cutting Program is named {program_name!r}; its settings are not known")
    changes = fields.attributes(
        "parameter",
        [
            ("Spacer Cutting Energy", "Laser Cutting Energy"),
            *((f"Spacer Cut Num of Pass {place}", "Number of Passes") for place in (1, 2, 3)),
        ],
    )
    for item in changes:
        name = str(item["name"]).replace("Spacer Cutting Energy", "Laser Cutting Energy")
        item["name"] = name.replace("Spacer Cut Num of Pass", "Number of Passes")
    cutting = process_body(
        stores,
        program_name or "Cutting Spacer",
        "Spacer Cutting Program" if program else "Cutting Spacer",
        conditions=program.conditions if program else [],
        parameters=overwritten(program.parameters if program else [], changes),
        tags=program.tags if program else [],
    )
    return spacer, cutting


def _specimen(fields: Fields, stores: Stores) -> tuple[Product | None, Body]:
    specimen = stores.product_named("Sample", fields.text("Sample Name"), fields)
    procedures = fields.choices("Cutting Procedures Used")
    parameters = fields.attributes(
        "parameter",
        [
            "Polishing Pad",
            "Asymmetric Polish",
            "Polishing Side 2",
            "Sample Location",
            ("Sample Location based Order", "Sample Location Based Order"),
            "Diamond Grit",
            "Silicon Carbide Grit",
            ("Polishing Diamond Grit 2", "Diamond Grit"),
            ("Polishing Silicon Grit 2", "Silicon Carbide Grit"),
        ],
    )
    polishing = process_body(
        stores,
        "Impact Sample Cutting and Polishing",
        "Impact Sample Cutting and Polishing",
        conditions=fields.attributes("condition", ["Polishing Process"]),
        parameters=parameters,
        tags=[ids.tag("CuttingProcedure", item) for item in procedures],
    )
    return specimen, polishing


_FILES = ("Scope Filename", "Camera Filename", "Beam Profile Filename")


def experiment(fields: Fields, stores: Stores) -> None:
    """One shot: measured on a launch package, with all its settings in the spec."""
    launch = fields.text("Launch ID")
    package = stores.product_named("Launch Package", launch or "not recorded", fields)
    assert package is not None
    kind = fields.text("Experiment Type") or "Laser Shock Experiment"
    record = next((tag for tag in fields.tags if tag.startswith("recordId::")), "")
    source, counter = fields.source(), fields.text("Experiment Day Counter")
    date = (source or {}).get("performed_date", "")
    if counter:
        fields.tags.append(ids.tag("ExperimentDayCounter", counter))
    notes = fields.text("Notes & Comments")
    files = []
    for key in _FILES:
        filename = fields.text(key)
        if filename:
            files.append(filename)
            fields.tags.append(ids.tag(f"openmsi.filename::{key.split(' ')[0].lower()}", filename))
    fields.tag("Recovery Box", "Recovery Row", "Recovery Column", "New Energy Measurement", "Grant Funding")
    # The fluence is worked out from energy and beam diameter.
    conditions = fields.attributes("condition", ["Fluence"], origin="computed")
    known = stores.builder.vocabulary.templates["measurement", "Laser Shock Experiment"].attributes
    names = {kind: [item.name for item in known if item.kind == kind] for kind in KINDS}
    conditions += fields.attributes("condition", names["condition"])
    parameters = fields.attributes("parameter", names["parameter"])
    properties = fields.attributes("property", names["property"], origin="measured")
    fields.rest()
    template = stores.builder.template("measurement", "Laser Shock Experiment")
    spec = {"conditions": conditions, "name": kind, "parameters": parameters, "template": template}
    number = f" shot {counter}" if counter else ""
    run = {
        "name": f"{kind} on {launch or 'an unrecorded package'} {date}{number}".rstrip(),
        "notes": notes,
        "properties": properties,
        "source": source,
        "tags": fields.tags,
    }
    uid = stores.builder.measurement(
        spec, ("Experiment", record or f"{launch}/{date}/{counter}/{'/'.join(files)}"), run, package
    )
    if files:
        stores.filenames[uid] = files
