"""The building of one step: its settings, its specs, its runs and what was measured on its product."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openmsi_streams.gemd.lasershock.build import Ingredient, Product
from openmsi_streams.gemd.lasershock.fields import Fields

if TYPE_CHECKING:
    from openmsi_streams.gemd.lasershock.model import Stock, Stores

Body = dict[str, Any]


def tool(layout: str) -> list[str]:
    """Only flyers are cut with a choice of tools."""
    return ["Cutting Tool"] if layout == "Flyer Cutting Program" else []


def process_body(stores: Stores, name: str, template: str, **content: Any) -> Body:
    """Give the body of a process spec."""
    return {"name": name, "template": stores.builder.template("process", template), **content}


def material_body(stores: Stores, name: str, template: str = "") -> Body:
    """Give the body of a material spec."""
    link = stores.builder.template("material", template) if template else None
    return {"name": name, "template": link}


def make_step(
    stores: Stores,
    key: tuple[str, ...],
    process: Body,
    material: Body,
    ingredients: list[Ingredient | None],
    run: Body | None = None,
    run_name: str = "",
    **uids: str,
) -> Product:
    """Make a step's specs and its runs; runs carry the step's name, the last one the record's."""
    used = [item for item in ingredients if item is not None]
    spec = stores.builder.step_spec(process, material, used)
    made = {"name": run_name or material["name"], **(run or {})}
    return stores.builder.step_run(spec, key, {"name": process["name"]}, made, used, **uids)


def take_bought(
    stores: Stores, key: tuple[str, ...], name: str, stock: Stock | None, grams: float | None = None
) -> Any:
    """Take a piece of a purchased material, as the ingredient of that name."""
    if stock is None:
        return None
    run = stores.builder.step_run(
        stock.spec, (*key, name), {"name": f"Purchasing {stock.name}"}, {"name": stock.name}, []
    )
    return Ingredient(name, run, grams)


def take_measured(
    stores: Stores,
    key: tuple[str, ...],
    fields: Fields,
    entries: list[Any],
    source: Body | None,
    origin: str = "measured",
) -> Callable[[Product | None, str], None]:
    """Take single measured values now; give a function that hangs them on their material later."""
    values = [(entry, fields.attributes("property", [entry], origin=origin)) for entry in entries]

    def hang(material: Product | None, of: str) -> None:
        for entry, made in values:
            if not made:
                continue
            name = entry if isinstance(entry, str) else entry[0]
            if material is None:
                fields.problem(f"{name} was measured on {of}, which this record does not name; left out")
                continue
            body = {"name": f"{name} of {of}", "properties": made, "source": source}
            stores.builder.measurement({"name": f"Measuring {name}"}, (*key, name), body, material)

    return hang


def overwritten(attributes: list[Body], changes: list[Body]) -> list[Body]:
    """Copy a program's settings with those of the record in place of equal names."""
    names = {item["name"] for item in changes}
    kept = [item for item in attributes if item["name"] not in names]
    used = {(item.get("template") or {}).get("id") for item in kept if "template" in item}
    made = []
    for item in changes:
        link = (item.get("template") or {}).get("id")
        made.append({k: v for k, v in item.items() if k != "template"} if link and link in used else item)
        used.add(link)
    return [*kept, *made]
