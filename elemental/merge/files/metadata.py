"""The header fields of a merged file: the recipe, and the fields that the WebUI and model sites read.

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

RECIPE_FIELD = "elemental_recipe"
RECIPE_NAME = "Elemental recipe"
"""The name of the recipe in the infotext of images that the WebUI saves."""

LABEL_FIELD = "Elemental"
"""The name of the description of the merge in an infotext."""

_MODELS_FIELD = "sd_merge_models"
_WEBUI_FIELD = "sd_merge_recipe"


class SourceFacts(NamedTuple):
    """What the header says about a model, besides its path.

    Attributes:
        sha256: The SHA-256 of the file; None to leave it out.
        size: The size of the file in bytes.
        legacy_hash: The WebUI's old short hash.
        metadata: The header fields of the file.
    """

    sha256: str | None
    size: int
    legacy_hash: str
    metadata: Mapping[str, str]


def make_metadata(plan: MergePlan, facts: Mapping[Role, SourceFacts]) -> dict[str, str]:
    """Make the header fields of a merged file; the same merge always gives the same fields.

    Args:
        plan: The merge.
        facts: Facts of each of its files, including a VAE file.
    """
    recipe = with_hashes(plan.recipe, facts)
    return {
        "format": "pt",
        RECIPE_FIELD: json.dumps(recipe.to_dict()),
        _WEBUI_FIELD: json.dumps(_webui_recipe(plan, facts)),
        _MODELS_FIELD: json.dumps(_webui_models(recipe, facts)),
    }


def metadata_room(plan: MergePlan, facts: Mapping[Role, SourceFacts]) -> dict[str, str]:
    """Make fields of the final length while hashes are still being computed."""
    filled = {
        role: fact._replace(sha256=fact.sha256 and format(index, "064x"))
        for index, (role, fact) in enumerate(facts.items())
    }
    return make_metadata(plan, filled)


def recipe_from_metadata(metadata: Mapping[str, str], *, name: str) -> MergeRecipe:
    """Read the recipe of a merged file.

    Args:
        metadata: The header fields.
        name: How errors call the file.

    Raises:
        RecipeError: There is no recipe, or it cannot be read.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    if RECIPE_FIELD not in metadata:
        raise RecipeError(f"{name} has no recipe of this program.")
    return recipe_from_json(metadata[RECIPE_FIELD], name=name)


def recipe_from_json(text: str, *, name: str) -> MergeRecipe:
    """Read a recipe from JSON.

    Args:
        text: The JSON.
        name: How errors call the file.

    Raises:
        RecipeError: The text is not a recipe.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RecipeError(f"The recipe in {name} is not JSON: {exc}.") from exc
    if not isinstance(data, dict):
        raise RecipeError(f"{name} has no recipe of this program.")
    return recipe_from_dict(data)


def recipe_as_json(recipe: MergeRecipe, models: Mapping[Role, Checkpoint]) -> str:
    """Write a recipe as JSON for :func:`recipe_from_json`, with the files' sizes and cached hashes.

    Args:
        recipe: The recipe.
        models: Its files.
    """
    facts = {
        role: SourceFacts(model.remembered_sha256(), model.signature.size, "", {}) for role, model in models.items()
    }
    return json.dumps(with_hashes(recipe, facts).to_dict())


def name_recipe(recipe: MergeRecipe) -> str:
    """Describe a recipe in one line."""
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
    """Add the files' hashes and sizes to a recipe."""

    def identified(source: ModelSource, role: Role) -> ModelSource:
        return replace(source, sha256=facts[role].sha256, size=facts[role].size)

    return replace(
        recipe,
        model_a=identified(recipe.model_a, Role.A),
        model_b=identified(recipe.model_b, Role.B),
        model_c=recipe.model_c and identified(recipe.model_c, Role.C),
        vae_file=recipe.vae_file and identified(recipe.vae_file, Role.VAE),
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
    """Read a JSON field of a file from any source; an empty dict if it cannot be read."""
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
