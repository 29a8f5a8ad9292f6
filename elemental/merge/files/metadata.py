"""The header fields of a merged file: this program's recipe, and those that the WebUI and model sites read.

The WebUI's fields are the ones its own merger writes (``run_modelmerger`` in modules/extras.py of
github.com/AUTOMATIC1111/stable-diffusion-webui, version 1.10.1): ``sd_merge_recipe`` names the sources' hashes and
the method, and ``sd_merge_models`` describes each source by its hash, the sources' own sources included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple

from ...architectures.keys import FIRST_CONV
from ...errors import RecipeError
from ...recipe.block_weights import format_block_weights
from ...recipe.recipe import MergeRecipe, ModelSource, SaveDtype, recipe_from_dict
from ...recipe.rules import format_rules
from ..plan import MergePlan, Role
from .checkpoint import Checkpoint
from .hashes import remembered_sha256

RECIPE_FIELD = "elemental_recipe"
RECIPE_NAME = "Elemental recipe"
"""The name of the same recipe in the infotext of images that the WebUI makes on its own."""

LABEL_FIELD = "Elemental"
"""The name in an infotext of what is merged, in words."""

_MODELS_FIELD = "sd_merge_models"
_WEBUI_FIELD = "sd_merge_recipe"


class SourceFacts(NamedTuple):
    """What is written about a source besides its place in the recipe.

    Attributes:
        sha256: Of the whole file, or None if it is to be left out.
        size: In bytes.
        legacy_hash: The WebUI's old short hash.
        metadata: The source's own header fields.
    """

    sha256: str | None
    size: int
    legacy_hash: str
    metadata: Mapping[str, str]


def make_metadata(plan: MergePlan, facts: Mapping[Role, SourceFacts]) -> dict[str, str]:
    """Make the header fields of a merge's result; the same merge gives the same fields, whenever and wherever.

    Args:
        plan: The merge.
        facts: Of each of its models, a VAE chosen separately included.
    """
    recipe = with_hashes(plan.recipe, facts)
    return {
        "format": "pt",
        RECIPE_FIELD: json.dumps(recipe.to_dict()),
        _WEBUI_FIELD: json.dumps(_webui_recipe(plan, facts)),
        _MODELS_FIELD: json.dumps(_webui_models(recipe, facts)),
    }


def metadata_room(plan: MergePlan, facts: Mapping[Role, SourceFacts]) -> dict[str, str]:
    """Make fields as long as those will be whose hashes are not known yet."""
    filled = {
        role: fact._replace(sha256=fact.sha256 and format(index, "064x"))
        for index, (role, fact) in enumerate(facts.items())
    }
    return make_metadata(plan, filled)


def recipe_from_metadata(metadata: Mapping[str, str], *, name: str) -> MergeRecipe:
    """Read the recipe that a merged file carries.

    Args:
        metadata: The header fields.
        name: What to call the file in an error.

    Raises:
        RecipeError: There is none, or it cannot be read.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    if RECIPE_FIELD not in metadata:
        raise RecipeError(f"{name} carries no recipe of this program.")
    return recipe_from_json(metadata[RECIPE_FIELD], name=name)


def recipe_from_json(text: str, *, name: str) -> MergeRecipe:
    """Read a recipe from the JSON text of its dict.

    Args:
        text: The JSON.
        name: What to call the file in an error.

    Raises:
        RecipeError: It is no recipe.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RecipeError(f"The recipe in {name} is no JSON: {exc}.") from exc
    if not isinstance(data, dict):
        raise RecipeError(f"{name} holds no recipe of this program.")
    return recipe_from_dict(data)


def recipe_as_json(recipe: MergeRecipe, models: Mapping[Role, Checkpoint]) -> str:
    """Write a recipe as the JSON text that :func:`recipe_from_json` reads, with sizes, and hashes that are known.

    Args:
        recipe: What was merged.
        models: Its files.
    """
    facts = {
        role: SourceFacts(remembered_sha256(model.path), model.signature.size, "", {}) for role, model in models.items()
    }
    return json.dumps(with_hashes(recipe, facts).to_dict())


def name_recipe(recipe: MergeRecipe) -> str:
    """Say in one line what a recipe merges, for people."""
    models = [PurePath(source.name).stem for role, source in recipe.sources.items() if role != Role.VAE.value]
    pieces = [f"{recipe.mode.value} of {', '.join(models)}", f"alpha {recipe.alpha:g}"]
    if recipe.beta is not None:
        pieces.append(f"beta {recipe.beta:g}")
    for name, weights in (("blocks", recipe.block_alpha), ("blocks beta", recipe.block_beta)):
        if weights is not None:
            pieces.append(f"{name} {format_block_weights(weights)}")
    if recipe.rules.rules:
        pieces.append(f"rules {format_rules(recipe.rules)}")
    return "; ".join(pieces)


def with_hashes(recipe: MergeRecipe, facts: Mapping[Role, SourceFacts]) -> MergeRecipe:
    """Write the sources' hashes and sizes into a recipe."""

    def known(source: ModelSource | None, role: Role) -> ModelSource | None:
        return source and replace(source, sha256=facts[role].sha256, size=facts[role].size)

    return replace(
        recipe,
        model_a=replace(recipe.model_a, sha256=facts[Role.A].sha256, size=facts[Role.A].size),
        model_b=replace(recipe.model_b, sha256=facts[Role.B].sha256, size=facts[Role.B].size),
        model_c=known(recipe.model_c, Role.C),
        vae_file=known(recipe.vae_file, Role.VAE),
    )


def _webui_recipe(plan: MergePlan, facts: Mapping[Role, SourceFacts]) -> dict[str, Any]:
    recipe = plan.recipe
    hashes = [facts[role].sha256 if role in facts else None for role in (Role.A, Role.B, Role.C)]
    first_conv = next(tensor.info.shape for tensor in plan.tensors if tensor.name.key == FIRST_CONV)
    return {
        "type": "elemental",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2],
        "interp_method": recipe.mode.value,
        "multiplier": recipe.alpha,
        "multiplier_beta": recipe.beta,
        "block_weights": recipe.block_alpha and format_block_weights(recipe.block_alpha),
        "block_weights_beta": recipe.block_beta and format_block_weights(recipe.block_beta),
        "elemental_rules": format_rules(recipe.rules),
        "save_as_half": recipe.dtype is SaveDtype.FP16,
        "custom_name": "",
        "config_source": 0,
        "bake_in_vae": recipe.vae_file.name if recipe.vae_file else "None",
        "discard_weights": "",
        "is_inpainting": first_conv[1] == 9,
        "is_instruct_pix2pix": first_conv[1] == 8,
    }


def _webui_models(recipe: MergeRecipe, facts: Mapping[Role, SourceFacts]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for role, source in recipe.sources.items():
        fact = facts[Role(role)]
        if role == Role.VAE.value or fact.sha256 is None:
            continue
        models[fact.sha256] = {
            "name": source.name,
            "legacy_hash": fact.legacy_hash,
            "sd_merge_recipe": _parsed(fact.metadata.get(_WEBUI_FIELD)) or None,
        }
        models.update(_parsed(fact.metadata.get(_MODELS_FIELD)))
    return models


def _parsed(text: str | None) -> dict[str, Any]:
    """Read a field of somebody else's file, which may hold anything."""
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
