"""Building blocks of a material history: steps, stock and measurements, each a valid set of specs and runs.

Specs are addressed by content (two stacks made alike share their specs); runs by the record they come from.
"""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

from openmsi_streams.gemd import ids
from openmsi_streams.gemd.vocabulary import ObjectKind, Vocabulary, closure

Body = dict[str, Any]


class Product(NamedTuple):
    """A material: the uids of its spec and its run (empty where only the spec exists)."""

    spec: str
    run: str = ""


class Ingredient(NamedTuple):
    """What goes into a step, with the amount in grams where it was weighed."""

    name: str
    product: Product
    grams: float | None = None


class StepSpec(NamedTuple):
    """The specs of a step: process, output material, and its ingredients by name."""

    process: str
    material: str
    ingredients: dict[str, str]


class Builder:
    """Collects GEMD objects as JSON, each once."""

    def __init__(self, vocabulary: Vocabulary, space: uuid.UUID) -> None:
        self.vocabulary = vocabulary
        self.space = space
        self.objects: dict[str, Body] = {}
        self._templates: dict[tuple[ObjectKind, str], str] = {}

    def uid(self, *parts: str) -> str:
        """Give the uid of something that a record of the laboratory stands for."""
        return ids.uid(self.space, "laser shock", *parts)

    def template(self, group: ObjectKind, name: str) -> dict[str, str] | None:
        """Give a link to an object template, taking it and its attributes into the model."""
        item = self.vocabulary.templates.get((group, name))
        if item is None:
            return None
        if (group, name) not in self._templates:
            for encoded in closure(self.vocabulary, item):
                self._encoded(encoded)
            self._templates[group, name] = item.uid
        return ids.link(item.uid)

    def attribute(self, encoded: bytes) -> None:
        """Take an attribute template into the model."""
        if encoded:
            self._encoded(encoded)

    def _encoded(self, encoded: bytes) -> None:
        import msgspec

        body: Body = msgspec.json.decode(encoded)
        self.objects.setdefault(body["uids"][ids.SCOPE], body)

    def put(self, body: Body, uid: str, **more_uids: str) -> str:
        """Add an object under a uid; a second one with the same uid is the same object."""
        others = {scope.replace("__", "."): value for scope, value in more_uids.items() if value}
        self.objects.setdefault(uid, ids.prune({**body, "uids": {ids.SCOPE: uid, **others}}))
        return uid

    def content(self, body: Body, *more: Any) -> str:
        """Add a spec under the uid of its content (and of ``more``, which belongs to what it is)."""
        body = ids.prune(body)
        return self.put(body, ids.content_uid(self.space, "laser shock spec", {"body": body, "more": list(more)}))

    def step_spec(
        self,
        process: Body,
        material: Body,
        ingredients: list[Ingredient],
        *,
        process_uid: str = "",
        material_uid: str = "",
    ) -> StepSpec:
        """Add a process spec with its ingredients and its output material's spec."""
        process = {**process, "type": "process_spec", "name": ids.name(process["name"])}
        # What goes in is part of what the step is: two steps of equal settings on other materials are two specs.
        inputs = [[item.name, item.product.spec, item.grams] for item in ingredients]
        uid = self.put(process, process_uid) if process_uid else self.content(process, inputs)
        parts = {}
        for item in ingredients:
            parts[item.name] = self.content(
                {
                    "absolute_quantity": _grams(item.grams),
                    "material": ids.link(item.product.spec),
                    "name": item.name,
                    "process": ids.link(uid),
                    "type": "ingredient_spec",
                }
            )
        body = {**material, "type": "material_spec", "name": ids.name(material["name"]), "process": ids.link(uid)}
        made = self.put(body, material_uid) if material_uid else self.content(body)
        return StepSpec(uid, made, parts)

    def step_run(
        self,
        spec: StepSpec,
        key: tuple[str, ...],
        process: Body,
        material: Body,
        ingredients: list[Ingredient],
        **more_uids: str,
    ) -> Product:
        """Add the runs that follow a step's specs: process, ingredients, material. ``key`` says which record it is."""
        process_uid = self.put(
            {**process, "type": "process_run", "name": ids.name(process["name"]), "spec": ids.link(spec.process)},
            self.uid(*key, "process"),
        )
        for item in ingredients:
            self.put(
                {
                    "absolute_quantity": _grams(item.grams),
                    "material": ids.link(item.product.run),
                    "process": ids.link(process_uid),
                    "spec": ids.link(spec.ingredients[item.name]),
                    "type": "ingredient_run",
                },
                self.uid(*key, "ingredient", item.name),
            )
        body = {
            "sample_type": "experimental",
            **material,
            "name": ids.name(material["name"]),
            "process": ids.link(process_uid),
            "spec": ids.link(spec.material),
            "type": "material_run",
        }
        return Product(spec.material, self.put(body, self.uid(*key, "material"), **more_uids))

    def measurement(self, spec: Body, key: tuple[str, ...], run: Body, material: Product) -> str:
        """Add a measurement of a material, with its spec."""
        uid = self.content({**spec, "type": "measurement_spec", "name": ids.name(spec["name"])})
        body = {
            **run,
            "material": ids.link(material.run),
            "name": ids.name(run["name"]),
            "spec": ids.link(uid),
            "type": "measurement_run",
        }
        return self.put(body, self.uid(*key, "measurement"))


def _grams(amount: float | None) -> Body | None:
    return None if amount is None else {"nominal": amount, "type": "nominal_real", "units": "gram"}
