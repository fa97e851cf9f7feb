"""How a flyer stack and a sample come about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openmsi_streams.gemd import ids
from openmsi_streams.gemd.lasershock.build import Ingredient
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

if TYPE_CHECKING:
    from openmsi_streams.gemd.lasershock.model import Stores


def flyer_stack(fields: Fields, stores: Stores) -> None:
    """Glass, foil and a two-part epoxy, pressed together and cut into flyers."""
    name = fields.text("Flyer ID") or f"unnamed ({fields.text('recordId')})"
    key = ("Flyer Stack", name)
    if key in stores.products:
        fields.problem(f"a second record of Flyer Stack is named {name!r}; it is not used")
        return
    source, notes = fields.source(), fields.text("Flyer Stack Note")
    fields.tags.append(ids.tag("FlyerID", name))
    glass = stores.stock_named("Glass ID", fields.text("Glass Name Reference"), fields)
    foil = stores.stock_named("Foil ID", fields.text("Foil Name"), fields)
    epoxy = stores.stock_named("Epoxy ID", fields.text("Epoxy Name"), fields)
    on_glass = take_measured(
        stores,
        (*key, "glass"),
        fields,
        [
            *((f"Glass Thickness {place}", "Glass Thickness", "mm") for place in range(1, 5)),
            ("Glass width", "Glass Width", "mm"),
            ("Glass length", "Glass Length", "mm"),
        ],
        source,
    )
    on_foil = take_measured(
        stores,
        (*key, "foil"),
        fields,
        [(f"Foil Thickness {place}", "Foil Thickness") for place in range(1, 5)],
        source,
    )
    on_stack = take_measured(
        stores,
        key,
        fields,
        [
            *((f"Stack Thickness {place}", "Stack Thickness") for place in range(1, 5)),
            ("Time to Cut", "Time To Cut"),
            "Flyer Cutting Depth Success",
            "Flyer Cutting Completeness",
        ],
        source,
    )
    computed = take_measured(
        stores,
        (*key, "epoxy"),
        fields,
        [(f"Epoxy Thickness {place}", "Epoxy Thickness") for place in range(1, 5)],
        source,
        "computed",
    )
    parts = [
        take_bought(stores, key, f"Epoxy Part {part}", epoxy, fields.number(f"Part {part}")) for part in ("A", "B")
    ]
    mixing = process_body(
        stores,
        "Mixing Epoxy",
        "Mixing Epoxy",
        parameters=fields.attributes("parameter", ["Mixing Time", "Resting Time"]),
    )
    mixed = make_step(stores, (*key, "mixing"), mixing, material_body(stores, "Mixed Epoxy"), parts) if epoxy else None
    pressing = process_body(
        stores,
        "Epoxying a Flyer Stack",
        "Epoxying a Flyer Stack",
        conditions=fields.attributes("condition", ["Compression Method"]),
        parameters=fields.attributes("parameter", ["Compression Weight", "Compression Time"]),
    )
    glass_piece, foil_piece = (
        take_bought(stores, key, "Glass ID", glass),
        take_bought(stores, key, "Foil ID", foil),
    )
    stack = make_step(
        stores,
        (*key, "pressing"),
        pressing,
        material_body(stores, "Glass Epoxy Foil Stack"),
        [glass_piece, foil_piece, Ingredient("Mixed Epoxy", mixed) if mixed else None],
    )
    program_name = fields.text("Cutting Procedure Name")
    program = stores.programs.get(("Flyer Cutting Program", program_name))
    if program_name and program is None:
        fields.problem(f"no record of Flyer Cutting Program is named {program_name!r}; its settings are not known")
    changes = fields.attributes(
        "parameter",
        [
            "Flyer Spacing",
            "Flyer Diameter",
            "Rows X Columns",
            ("Cutting Energy", "Laser Cutting Energy"),
            "Number of Passes",
        ],
    )
    for item in changes:
        if item["name"] == "Cutting Energy":  # the program calls it by the vocabulary's name
            item["name"] = "Laser Cutting Energy"
    fields.rest()
    cutting = process_body(
        stores,
        program_name or "Unknown Flyer Cutting",
        "Flyer Cutting Program",
        conditions=program.conditions if program else [],
        parameters=overwritten(program.parameters if program else [], changes),
        tags=program.tags if program else [],
    )
    made = make_step(
        stores,
        key,
        cutting,
        material_body(stores, "Flyer Stack", "Flyer Stack"),
        [Ingredient("Glass Epoxy Foil Stack", stack)],
        {"notes": notes, "tags": fields.tags},
        f"Flyer Stack {name}",
        lab__flyer_id=name,
    )
    stores.products[key] = made
    on_glass(glass_piece.product if glass_piece else None, f"the glass of {name}")
    on_foil(foil_piece.product if foil_piece else None, f"the foil of {name}")
    on_stack(made, f"Flyer Stack {name}")
    computed(made, f"Flyer Stack {name}")


def sample(fields: Fields, stores: Stores) -> None:
    """Raw material, preprocessed where recorded, processed, annealed where recorded."""
    name = fields.text("Sample Name") or f"unnamed ({fields.text('recordId')})"
    key = ("Sample", name)
    if key in stores.products:
        fields.problem(f"a second record of Sample is named {name!r}; it is not used")
        return
    source = fields.source("Supplier Name", "Purchase/Manufacture Date")
    notes, identifier, igsn = fields.text("General Notes"), fields.text("Sample ID"), fields.text("IGSN")
    if identifier:
        fields.tags.append(ids.tag("SampleID", identifier))
    fields.tag("Supplier Product ID", "Date", "Performed By", "Grant Funding")
    grains = ["Density", ("Bulk Wave  Speed", "Bulk Wave Speed"), "Bulk Wave Speed", "Bulk Modulus"]
    measured = take_measured(
        stores, key, fields, [*grains, "Average Grain Size", "Min Grain Size", "Max Grain Size"], source
    )
    raw_spec = _raw_material(fields, stores)
    raw = stores.builder.step_run(
        raw_spec, (*key, "raw"), {"name": "Obtaining Raw Material"}, {"name": "Raw Material"}, []
    )
    steps: list[tuple[Body, str]] = []
    before = process_body(
        stores,
        "Sample Preprocessing",
        "Sample Preprocessing",
        conditions=fields.attributes("condition", ["Preprocessing"]),
        parameters=fields.attributes("parameter", ["Preprocessing Temperature"]),
    )
    if before["conditions"] or before["parameters"]:
        steps.append((before, "Preprocessed Material"))
    conditions = fields.attributes(
        "condition",
        [
            "Processing Geometry",
            *((f"Processing Temperature {place}", "Processing Temperature") for place in range(1, 5)),
        ],
    )
    # Check boxes: the first says that the material was processed at all.
    chosen = fields.choices("Material Processing")
    for text in chosen[1:] if len(chosen) > 1 else chosen:
        fields.tags.append(ids.tag("MaterialProcessing", text))
    parameters = fields.attributes("parameter", ["Processing Route", "Processing Time"])
    processing = process_body(
        stores, "Sample Processing", "Sample Processing", conditions=conditions, parameters=parameters
    )
    steps.append((processing, "Processed Material"))
    after = process_body(
        stores,
        "Sample Annealing",
        "Sample Annealing",
        conditions=fields.attributes("condition", ["Annealing Temperature"]),
        parameters=fields.attributes("parameter", ["Annealing Time"]),
    )
    if after["conditions"] or after["parameters"]:
        steps.append((after, "Annealed Material"))
    fields.rest()
    current, ingredient = raw, "Raw Material"
    for place, (process, output) in enumerate(steps):
        last = place == len(steps) - 1
        current = make_step(
            stores,
            key if last else (*key, output),
            process,
            material_body(stores, "Sample" if last else output, "Sample" if last else ""),
            [Ingredient(ingredient, current)],
            {"notes": notes, "tags": fields.tags} if last else None,
            f"Sample {name}" if last else "",
            **({"lab__sample_name": name, "lab__sample_id": identifier, "igsn": igsn} if last else {}),
        )
        ingredient = output
    stores.products[key] = current
    measured(current, f"Sample {name}")


def _raw_material(fields: Fields, stores: Stores) -> Any:
    builder = stores.builder
    kind = fields.attributes("property", [("Material Type", "Sample Material Type")])
    measure = fields.attributes("condition", [("Percentage Measure", "Composition Measure")])
    amounts: dict[str, float] = {}
    for place in range(1, 10):
        element, share = fields.text(f"Constituent {place}"), fields.number(f"Percentage {place}")
        if element and share:
            amounts[element] = share
    properties: list[Body] = [{"property": item, "type": "property_and_conditions"} for item in kind]
    if amounts:
        attribute = builder.vocabulary.attributes["property", "Sample Raw Material Composition"]
        body: Body = {
            "name": "Composition",
            "origin": "specified",
            "type": "property",
            "value": {"quantities": amounts, "type": "nominal_composition"},
        }
        if set(amounts) <= attribute.choices:
            builder.attribute(attribute.encoded)
            body["template"] = ids.link(attribute.uid)
        else:
            fields.problem(f"{', '.join(sorted(set(amounts) - attribute.choices))} is new among the constituents")
        properties.append({"conditions": measure, "property": body, "type": "property_and_conditions"})
    return builder.step_spec(
        {"name": "Obtaining Raw Material"},
        {
            **material_body(stores, "Raw Material", "Raw Sample Material"),
            "properties": list(map(ids.prune, properties)),
        },
        [],
    )
