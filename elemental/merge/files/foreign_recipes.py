"""Recipes in the header fields of files that other programs merged, read as far as this program can express them.

The WebUI's own merger writes ``sd_merge_recipe`` and ``sd_merge_models`` (``run_modelmerger`` in modules/extras.py of
github.com/AUTOMATIC1111/stable-diffusion-webui, version 1.10.1). It writes the hash of a model as null if nobody
computed it before; the models are then told by their order in ``sd_merge_models``.

supermerger writes the same fields (``smerge`` in scripts/mergers/mergers.py of
github.com/hako-mikan/sd-webui-supermerger): ``weights_alpha`` is a list without BASE, whose ratio is ``base_alpha``, or
null without block weights. For SDXL it has one number more, that of the VAE. ``elemental_merge`` is a list of rules, of
which those without exactly two colons have no effect there. A mode is a word in ``mode``, and ``calcmode`` says how it
is computed: most of these are modes of their own here. ``trainDifference`` and ``extract`` make the mode add difference
whatever it was; the second one does not write its gamma. Block weights for beta are read there only in modes with beta
and for ``tensor``. In both programs BASE's ratio is that of the text encoders and the VAE.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import RecipeError, SpecError
from ...modes.catalogue import MergeMode
from ...recipe.block_weights import BlockWeights
from ...recipe.recipe import MergeRecipe, ModelSource, SaveDtype, VaeChoice
from ...recipe.rules import RuleSet
from ...recipe.spec_parser import parse_rules
from .model_locator import UNKNOWN

FOREIGN_FIELD = "sd_merge_recipe"
"""The header field of the recipe."""

MODELS_FIELD = "sd_merge_models"
"""The header field that describes the merged models, by SHA-256."""

_SDXL_WITH_VAE = 20
_WORDS = {
    "weight": MergeMode.WEIGHT_SUM,
    "add": MergeMode.ADD_DIFFERENCE,
    "triple": MergeMode.TRIPLE_SUM,
    "twice": MergeMode.SUM_TWICE,
}
_CALCULATIONS: dict[str, tuple[MergeMode, MergeMode | None]] = {
    "cosineA": (MergeMode.COSINE_A, MergeMode.WEIGHT_SUM),
    "cosineB": (MergeMode.COSINE_B, MergeMode.WEIGHT_SUM),
    "tensor": (MergeMode.TENSOR_SUM, MergeMode.WEIGHT_SUM),
    "smoothAdd": (MergeMode.SMOOTH_ADD, MergeMode.ADD_DIFFERENCE),
    "smoothAdd MT": (MergeMode.SMOOTH_ADD, MergeMode.ADD_DIFFERENCE),
    "trainDifference": (MergeMode.TRAIN_DIFFERENCE, None),
    "extract": (MergeMode.EXTRACT, None),
}
"""What supermerger's ways to compute are here, and the only mode in which they mean that; None for any."""

_NOT_HERE = {
    "tensor2": "it cuts the second axis of tensors, of some by the length of the first one",
    "self": "it leaves out some tensors, which rules can do: merge A alone by --mode self",
    "plus random": "it adds random numbers to model A, which nobody wrote down",
}


@dataclass(frozen=True)
class ReadRecipe:
    """A recipe that was read.

    Attributes:
        recipe: The recipe.
        remarks: What could not be read, in whole sentences.
    """

    recipe: MergeRecipe
    remarks: tuple[str, ...] = ()


@dataclass
class _Reading:
    """A recipe while it is read.

    Attributes:
        data: The recipe as plain data.
        models: The merged models as plain data, by SHA-256.
        name: How errors call the file.
        unread: What could not be read.
    """

    data: Mapping[str, Any]
    models: Mapping[str, Any]
    name: str
    unread: list[str] = field(default_factory=list)

    def parts(self, mode: MergeMode, fields: Sequence[str], beta: float) -> dict[str, Any]:
        """Read the models and the mode.

        Args:
            mode: The mode.
            fields: The names of the fields that hold the hashes of A, B and C.
            beta: The second ratio, for modes that have one.
        """
        roles = ["a", "b", "c"] if mode.uses_c else ["a", "b"]
        hashes = [self.data.get(name) for name in fields[: len(roles)]]
        if not all(hashes) and len(self.models) == len(roles):
            hashes = list(self.models)
        sources = {f"model_{role}": self.source(role, sha256) for role, sha256 in zip(roles, hashes, strict=True)}
        return {**sources, "mode": mode, "beta": beta if mode.uses_beta else None}

    def source(self, role: str, sha256: Any) -> ModelSource:
        """Make the entry of a model."""
        described = self.models.get(sha256) if isinstance(sha256, str) else None
        title = described.get("name") if isinstance(described, dict) else None
        if not isinstance(sha256, str) or not sha256:
            return ModelSource(f"{UNKNOWN}model {role.upper()}", size=0)
        name = _name_of(title) if isinstance(title, str) else ""
        return ModelSource(name or sha256[:10], sha256.lower())


def _name_of(path: str) -> str:
    """Give the name without folders: a path of a stranger may lead anywhere, and on Windows to another computer."""
    return ModelSource(path).name


def is_foreign(data: Mapping[str, Any]) -> bool:
    """Tell whether plain data is a recipe of another program."""
    kind = data.get("type")
    return isinstance(kind, str) and kind in _READERS


def read_foreign(metadata: Mapping[str, Any], *, name: str) -> ReadRecipe | None:
    """Read a recipe of another program from header fields; None if there is none.

    Args:
        metadata: The header fields.
        name: How errors call the file.

    Raises:
        RecipeError: There is one, which cannot be expressed or is damaged.
    """
    data, models = (read_object(metadata.get(field_name)) for field_name in (FOREIGN_FIELD, MODELS_FIELD))
    if not is_foreign(data):
        return None
    reading = _Reading(data, {key: value for key, value in models.items() if isinstance(value, dict)}, name)
    program, read = _READERS[data["type"]]
    try:
        recipe = MergeRecipe(**read(reading))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise RecipeError(f"The recipe of {program} in {name} cannot be read: {exc}.") from exc
    if not reading.unread:
        return ReadRecipe(recipe)
    return ReadRecipe(recipe, (f"Not read from the recipe of {program}: {'; '.join(reading.unread)}.",))


def read_object(value: Any) -> dict[str, Any]:
    """Give a JSON object, or the text of one, from any source; an empty dict if it is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _read_webui(reading: _Reading) -> dict[str, Any]:
    data = reading.data
    modes = {"Weighted sum": MergeMode.WEIGHT_SUM, "Add difference": MergeMode.ADD_DIFFERENCE}
    method = data["interp_method"]
    if method not in modes:
        raise RecipeError(f'{reading.name} was not merged, but made by the WebUI\'s method "{method}".')
    parts = reading.parts(modes[method], [f"{name}_model_hash" for name in ("primary", "secondary", "tertiary")], 0.0)
    parts["alpha"] = float(data["multiplier"])
    parts["dtype"] = SaveDtype.FP16 if data.get("save_as_half") else None
    vae = data.get("bake_in_vae")
    if vae not in (None, "", "None"):
        parts |= {"vae": VaeChoice.FILE, "vae_file": ModelSource(_name_of(str(vae)))}
    if data.get("discard_weights"):
        reading.unread.append(f"which tensors were left out (discard_weights {data['discard_weights']!r})")
    return parts


def _read_supermerger(reading: _Reading) -> dict[str, Any]:
    data = reading.data
    mode = _supermerger_mode(reading)
    parts = reading.parts(mode, ("model_a", "model_b", "model_c"), float(data.get("base_beta") or 0))
    parts["alpha"] = float(data["base_alpha"])
    if data.get("mbw") or data.get("weights_alpha"):
        parts["block_alpha"], vae_rule = _supermerger_weights(data["weights_alpha"], parts["alpha"])
        if mode.uses_beta and mode is not MergeMode.EXTRACT and data.get("weights_beta"):
            parts["block_beta"], _ = _supermerger_weights(data["weights_beta"], parts["beta"])
        if vae_rule == 0:
            parts["vae"] = VaeChoice.A
        elif vae_rule is not None and not mode.record.keeps_vae:
            reading.unread.append(f"the ratio {vae_rule:g} of the VAE")
    parts["rules"] = _supermerger_rules(data.get("elemental_merge"), reading)
    if mode is MergeMode.EXTRACT:
        reading.unread.append("the gamma of extract, which supermerger does not write down; g is 0.3 unless given")
    for chosen in ("Include", "Exclude"):
        words = [str(word) for word in data.get(chosen) or () if word]
        if words:
            reading.unread.append(f"{chosen.lower()} {' '.join(words)}")
    return parts


def _supermerger_mode(reading: _Reading) -> MergeMode:
    """Read the mode and how it was computed.

    Raises:
        RecipeError: This program has no such formula.
    """
    text, calculation = str(reading.data["mode"]), str(reading.data.get("calcmode") or "normal")
    mode = next((mode for word, mode in _WORDS.items() if word in text.lower()), None)
    made = f'{reading.name} was made in supermerger\'s mode "{text}"'
    if mode is None:
        raise RecipeError(f"{made}, which this program does not have.")
    if calculation == "normal":
        return mode
    made += f' by "{calculation}"'
    if calculation not in _CALCULATIONS:
        why = f": {_NOT_HERE[calculation]}" if calculation in _NOT_HERE else ""
        raise RecipeError(f"{made}, which this program does not have{why}.")
    found, only = _CALCULATIONS[calculation]
    if only not in (None, mode):
        raise RecipeError(f"{made}, which this program does not have: its {found.value} goes with {only.value} alone.")
    return found


def _supermerger_weights(weights: Any, base: float) -> tuple[BlockWeights, float | None]:
    """Read block weights, and the ratio of the VAE for SDXL."""
    if isinstance(weights, str):
        weights = [float(number) for number in weights.split(",")][1:]
    numbers = [float(number) for number in weights]
    vae = numbers.pop() if len(numbers) == _SDXL_WITH_VAE else None
    return BlockWeights(tuple(numbers), base), vae


def _supermerger_rules(rules: Any, reading: _Reading) -> RuleSet:
    texts = rules.replace("\n", ",").split(",") if isinstance(rules, str) else [str(rule) for rule in rules or ()]
    good = []
    for text in map(str.strip, texts):
        if text.count(":") != 2:
            continue
        try:
            parse_rules(text)
        except SpecError:
            reading.unread.append(f'the rule "{text}"')
        else:
            good.append(text)
    return parse_rules(",".join(good))


_READERS: dict[Any, tuple[str, Callable[[_Reading], dict[str, Any]]]] = {
    "webui": ("the WebUI's merger", _read_webui),
    "Neo": ("Forge Neo's merger", _read_webui),
    "sd-webui-supermerger": ("supermerger", _read_supermerger),
}
"""By the type of a recipe, what made it, and what reads it."""
