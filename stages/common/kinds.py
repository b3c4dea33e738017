"""The chosen kind of translator: its parameters, checked by its class, and what it learns from."""

import copy
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from pydantic import Field, ValidationError, create_model

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.blocks import initial_weights
from kt.networks.weights import Weights, part
from kt.pairs.generate import shared_initial_seed
from kt.pairs.store import Pairs
from kt.run.errors import KTError
from kt.translators.base import Material, Translator, kind_named
from kt.translators.objectives import Objective, Samples
from stages.common.base import runtime
from stages.common.base.checks import explain
from stages.common.base.inputs import AUGMENTED, PAIRS, damaged, image_set
from stages.common.base.params import HIGHEST, MOST, Params, Strict
from stages.common.base.stores import pairs, require_same

TRAINING = PAIRS / "train"
FIRST = 64
"""Augmented pairs that are compared with those they are said to be made of, at most."""
Settings = TypeVar("Settings")
LARGEST: dict[type, float] = {int: MOST, float: HIGHEST}
"""What a setting may be at most, by its type, where its class says nothing else."""


def chosen(params: Params) -> type[Translator]:
    """The class of `model.kind`.

    Raises:
        KTError: there is none, or it needs what other parameters exclude.
    """
    try:
        kind = kind_named(params.model.kind)
    except KTError as error:
        raise KTError(f"params.yaml: model.kind: {error}") from None
    if params.target not in kind.targets:
        raise KTError(
            f"params.yaml: target is {params.target!r}, to which model.kind {kind.kind} does not "
            f"translate: it accepts {', '.join(kind.targets)}"
        )
    if kind.learns_from_small_blocks and not params.generate.small_blocks:
        raise KTError(
            f"params.yaml: generate.small_blocks is false, but model.kind {kind.kind} learns from "
            "small blocks"
        )
    return kind


def configuration(params: Params) -> Any:
    """The `Config` of the chosen kind, from `model`, `translators.<kind>.model` and others.

    Raises:
        KTError: naming the first value that is not valid.
    """
    kind = chosen(params)
    names = {field.name for field in dataclasses.fields(kind.Config)}
    common = {
        "layers": params.model.layers,
        "hidden_size": params.model.hidden_size,
        "dropout": params.train.dropout,
        "target": params.target,
    }
    shared = {name: value for name, value in common.items() if name in names}
    own = names - common.keys() - {"sizes"}
    values = _checked(kind.Config, shared, ("model",), set(shared))
    place = ("translators", kind.kind, "model")
    values |= _checked(kind.Config, params.translators[kind.kind].model, place, own)
    if "sizes" in names:
        values["sizes"] = params.sizes
    return _made(kind.Config, values, place)


def learning(params: Params) -> Any:
    """The `Learning` of the chosen kind, from `translators.<kind>.train`.

    Raises:
        KTError: naming the first value that is not valid.
    """
    kind = chosen(params)
    place = ("translators", kind.kind, "train")
    values = _checked(kind.Learning, params.translators[kind.kind].train, place)
    made = _made(kind.Learning, values, place)
    loss = getattr(made, "loss", None)
    if getattr(loss, "difference", False) and params.generate.small_init != "shared":
        raise KTError(
            f"params.yaml: {'.'.join(place)}.loss.difference is true, but generate.small_init is "
            f"{params.generate.small_init}: small blocks have no initial weights in common to "
            "predict the difference from; it needs shared"
        )
    if made.warmup_epochs > (epochs := params.schedule.epochs):
        raise KTError(
            f"params.yaml: {'.'.join(place)}.warmup_epochs: got {made.warmup_epochs}; accepts up "
            f"to the {epochs} epochs of translators.{kind.kind}.schedule.{params.scale}"
        )
    return made


def objective(model: Translator, params: Params, material: Material) -> Objective:
    """What a translator is trained on.

    Raises:
        KTError: it cannot be: the key is named where it is one of the model's.
    """
    try:
        return model.objective(learning(params), material)
    except KTError as error:
        own = {field.name for field in dataclasses.fields(model.Config)}
        if str(error).partition(":")[0] not in own:
            raise
        raise KTError(f"params.yaml: translators.{model.kind}.model.{error}") from None


def _checked(
    of: type, values: dict, place: tuple[str, ...], names: set[str] | None = None
) -> dict[str, Any]:
    schema = _schema(of, names)
    try:
        return schema.model_validate(values).model_dump()
    except ValidationError as error:
        raise KTError(f"params.yaml: {explain(error, schema, place)}") from None


def _schema(of: type, names: set[str] | None = None) -> type[Strict]:
    """A dataclass, or those of its fields, as a strict schema with its defaults and bounds."""
    hints = get_type_hints(of)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(of):
        if names is not None and field.name not in names:
            continue
        kind, bounds = hints[field.name], dict(field.metadata)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            nested = _schema(kind)
            fields[field.name] = (nested, Field(default_factory=nested))
            continue
        if kind in (int, float):
            bounds = {"le": LARGEST[kind]} | bounds
        fields[field.name] = (kind, Field(field.default, **bounds))
    return create_model(of.__name__, __base__=Strict, **fields)


def _made(of: type[Settings], values: dict[str, Any], place: tuple[str, ...]) -> Settings:
    """A dataclass of checked values; it may refuse those that do not go together."""
    nested = {
        name: _made(hint, values[name], (*place, name))
        for name, hint in get_type_hints(of).items()
        if isinstance(hint, type)
        and dataclasses.is_dataclass(hint)
        and isinstance(values[name], dict)
    }
    try:
        return of(**values | nested)
    except KTError as error:
        message = str(error).removeprefix("params.yaml: ")
        raise KTError(f"params.yaml: {'.'.join(place)}: {message}") from None


class Stored:
    """What the stages before have stored to learn from: a `kt.translators.base.Material`.

    All of it is verified here.

    Raises:
        KTError: something is missing or damaged, or there are fewer pairs than the parameters say.
    """

    def __init__(self, params: Params, compute: Compute, store: Path = TRAINING) -> None:
        self.compute = compute
        self.flip = params.generate.flip
        self.precision: str = params.train.precision
        self.seed = params.seed
        self.augmented = store == TRAINING and params.augment.copies > 0
        self.images: ImageSet = image_set(params, "main", "train")
        self._params = params
        learned = ["small"] if chosen(params).learns_from_small_blocks else []
        own = [] if self.augmented else learned
        target, count = params.target if learned else None, params.active.pairs
        networks = ("former", "large", "latter", *own)
        self._store = pairs(params, store, *networks, target=target if own else None, count=count)
        self._pairs = self._store
        if self.augmented:  # the copies of the networks' blocks that the stage `augment` has made
            self._pairs = pairs(params, AUGMENTED, "large", *learned, target=target)
            self._require_copies(count)

    def _require_copies(self, count: int) -> None:
        """Refuse augmented copies of other pairs, or other copies, than are to be learned from.

        Raises:
            KTError: they are.
        """
        if (made := self._pairs.about.get("pairs")) != count:
            raise KTError(
                f"{AUGMENTED} holds copies of {made} pairs, but {count} are to be learned "
                "from: run `dvc repro augment`; a table needs augment.copies 0"
            )
        wanted = self._params.augment.model_dump(exclude={"measure"})
        require_same(AUGMENTED, {"augment": self._pairs.about.get("augment")}, {"augment": wanted})
        first = slice(0, min(count, FIRST))  # before the copies stand the pairs themselves
        for name, rows in self._pairs.mapped("large").items():
            if not torch.equal(rows[first], self._store.mapped("large")[name][first]):
                raise damaged(AUGMENTED, f"its pairs are not those of {TRAINING}")

    def drawn_from(self, seed: int) -> "Stored":
        """The same with another seed of what is drawn for the translator."""
        other = copy.copy(self)
        other.seed = seed
        return other

    @cached_property
    def networks(self) -> Samples:
        return self._on_device(self._store, "former", "large", "latter")

    @cached_property
    def large(self) -> Samples:
        return part(self._on_device(self._pairs, "large"), "large")

    @cached_property
    def small(self) -> Samples:
        return part(self._on_device(self._pairs, "small"), "small")

    @property
    def initial(self) -> Weights:
        drawn = [shared_initial_seed(self._params.seed)]
        return initial_weights(self._params.target, drawn, self._params.sizes)

    @property
    def checksums(self) -> list[str]:
        """Of all that there is to learn from."""
        images = runtime.fingerprint(self.images.images, self.images.labels)
        return [self._store.checksum, self._pairs.checksum, images]

    def _on_device(self, store: Pairs, *parts: str) -> Samples:
        first = self._params.active.pairs if store is self._store else None
        mapped = store.mapped(*parts, first=first)
        return {name: rows.to(self.compute.device) for name, rows in mapped.items()}
