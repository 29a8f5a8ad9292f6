"""The header fields of a merged file: the recipe, and the fields that the WebUI and model sites read.

The WebUI's fields are the ones its own merger writes (``run_modelmerger`` in modules/extras.py of
github.com/AUTOMATIC1111/stable-diffusion-webui, version 1.10.1): ``sd_merge_recipe`` names the sources' hashes and
the method, and ``sd_merge_models`` describes each source by its hash, the sources' own sources included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import PurePath
from typing import Any, NamedTuple

from ...architectures.keys import FIRST_CONV
from ...errors import CheckpointError, RecipeError
from ...recipe.adjustments import format_adjust
from ...recipe.block_weights import format_block_weights
from ...recipe.chains import describe_place
from ...recipe.numbers import format_numbers
from ...recipe.recipe import LoraSource, MergeRecipe, ModelSource, SaveDtype, recipe_from_dict
from ...recipe.rules import format_ratio, format_rules
from ...recipe.target_checks import renamed_targets
from ..models import Model, all_models
from ..plan import MORE_ROLES, FileRole, LoraRole, MergePlan, Role
from .checkpoint import Checkpoint
from .foreign_recipes import FOREIGN_FIELD, MODELS_FIELD, ReadRecipe, is_foreign, read_foreign, read_object
from .hashes import SHORT
from .kept_fields import keep_fields, merged_from

RECIPE_FIELD = "elemental_recipe"
RECIPE_NAME = "Elemental recipe"
"""The name of the recipe in the infotext of images that the WebUI saves."""

LABEL_FIELD = "Elemental"
"""The name of the description of the merge in an infotext."""

_WRITTEN = frozenset({"format", RECIPE_FIELD, FOREIGN_FIELD, MODELS_FIELD})


class SourceFacts(NamedTuple):
    """What the header says about a model, besides its path.

    Attributes:
        sha256: The SHA-256 of the file; None to leave it out.
        size: The size of the file in bytes; None for a recipe in the place of a file.
        legacy_hash: The WebUI's old short hash.
        metadata: The header fields of the file.
        inner: The facts of the models of such a recipe; None for a file.
    """

    sha256: str | None
    size: int | None
    legacy_hash: str
    metadata: Mapping[str, str]
    inner: Mapping[FileRole, SourceFacts] | None = None


def gather_facts(
    models: Mapping[FileRole, Model], of_file: Callable[[Checkpoint], SourceFacts]
) -> dict[FileRole, SourceFacts]:
    """Give the facts of the models and LoRAs of a merge.

    Args:
        models: The models and LoRAs.
        of_file: Gives those of a file.
    """
    from ..chained_model import ChainedModel  # for merges alone; reading a recipe does without

    def of(model: Model) -> SourceFacts:
        if isinstance(model, ChainedModel):
            inner = all_models(model.models, model.loras)
            return SourceFacts(None, None, "", model.metadata, gather_facts(inner, of_file))
        return of_file(model.base)

    return {role: of(model) for role, model in models.items()}


def make_metadata(plan: MergePlan, facts: Mapping[FileRole, SourceFacts]) -> dict[str, str]:
    """Make the header fields of a merged file; the same merge always gives the same fields.

    They hold no folders, for the file may be published; but a recipe that was read from a file of version 0.1.0 stays
    as it is, so that repeating it makes the same bytes.

    Args:
        plan: The merge.
        facts: Facts of each of its files, including a VAE file and LoRAs.
    """
    recipe = with_hashes(_typed_without_folders(plan.recipe), facts)
    kept = keep_fields(facts[Role.A].metadata, written=_WRITTEN).fields
    return {
        "format": "pt",
        RECIPE_FIELD: json.dumps(recipe.to_dict()),
        FOREIGN_FIELD: json.dumps(_webui_recipe(plan, facts)),
        MODELS_FIELD: json.dumps(_webui_models(recipe, facts)),
        **kept,
        **merged_from(kept, _merged_names(recipe)),
    }


def left_out_fields(metadata: Mapping[str, str]) -> str:
    """Say in one line which header fields of A a merge does not keep; empty if it keeps all."""
    return keep_fields(metadata, written=_WRITTEN).left_out


def metadata_room(plan: MergePlan, facts: Mapping[FileRole, SourceFacts]) -> dict[str, str]:
    """Make fields of the final length while hashes are still being computed."""
    return make_metadata(plan, _numbered(facts, count()))


def _numbered(facts: Mapping[FileRole, SourceFacts], numbers: Iterator[int]) -> dict[FileRole, SourceFacts]:
    """Give facts with a hash of each file's own in place of those that are not known yet."""
    return {
        role: fact._replace(
            sha256=fact.sha256 and format(next(numbers), "064x"), inner=fact.inner and _numbered(fact.inner, numbers)
        )
        for role, fact in facts.items()
    }


def recipe_from_metadata(metadata: Mapping[str, Any], *, name: str) -> MergeRecipe:
    """Read the recipe of a file that this program made.

    Args:
        metadata: The header fields.
        name: How errors call the file.

    Raises:
        RecipeError: There is no recipe, or it cannot be read.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    text = metadata.get(RECIPE_FIELD)
    if not isinstance(text, str):  # header fields in a JSON file can be anything
        raise RecipeError(f"{name} has no recipe of this program, the WebUI's merger or supermerger.")
    return recipe_from_json(text, name=name)


def any_recipe_from_metadata(metadata: Mapping[str, Any], *, name: str) -> ReadRecipe:
    """Read the recipe of a merged file: of this program, or else of the WebUI's merger or of supermerger.

    Args:
        metadata: The header fields.
        name: How errors call the file.

    Raises:
        RecipeError: There is no recipe, or it cannot be read.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    foreign = None if RECIPE_FIELD in metadata else read_foreign(metadata, name=name)
    return foreign or ReadRecipe(recipe_from_metadata(metadata, name=name))


def recipe_from_json(text: str, *, name: str) -> MergeRecipe:
    """Read a recipe of this program from JSON.

    Args:
        text: The JSON.
        name: How errors call the file.

    Raises:
        RecipeError: The text is not a recipe.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    data = _load_json(text, name)
    if not isinstance(data, dict):
        raise RecipeError(f"{name} has no recipe of this program.")
    return recipe_from_dict(data)


def any_recipe_from_json(text: str, *, name: str) -> ReadRecipe:
    """Read a recipe from JSON: one of this program, or the header fields or the recipe of another one.

    Args:
        text: The JSON.
        name: How errors call the file.

    Raises:
        RecipeError: The text is not a recipe.
        SpecError: Its rules cannot be read, or set beta in a mode that has none.
    """
    data = _load_json(text, name)
    if isinstance(data, dict):
        fields = data.get("__metadata__", data)
        if isinstance(fields, dict) and {RECIPE_FIELD, FOREIGN_FIELD} & fields.keys():
            return any_recipe_from_metadata(fields, name=name)
        if is_foreign(data):
            return any_recipe_from_metadata({FOREIGN_FIELD: text, MODELS_FIELD: "{}"}, name=name)
    return ReadRecipe(recipe_from_json(text, name=name))


def _load_json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RecipeError(f"The recipe in {name} is not JSON: {exc}.") from exc


def recipe_as_json(recipe: MergeRecipe, models: Mapping[FileRole, Model]) -> str:
    """Write a recipe for images: as short JSON for :func:`recipe_from_json`, which names its models without folders.

    Their sizes and the first digits of cached hashes are added.

    Args:
        recipe: The recipe.
        models: Its models.
    """
    facts = gather_facts(models, lambda file: SourceFacts(file.remembered_sha256(), file.signature.size, "", {}))
    return recipe_to_share(with_hashes(recipe, facts).to_dict())


def recipe_to_share(data: Mapping[str, Any]) -> str:
    """Write the plain data of a recipe as short JSON in one line; its models have names, sizes and short hashes."""
    return json.dumps(without_folders(data), separators=(",", ":"), ensure_ascii=False)


def without_folders(data: Mapping[str, Any]) -> dict[str, Any]:
    """Give the plain data of a recipe with the names of its models instead of their paths, and rules in one line."""
    shared = {**data, "models": {role: _name_alone(source) for role, source in data["models"].items()}}
    for listed in ("loras", "more"):
        if listed in data:
            shared[listed] = [_name_alone(source) for source in data[listed]]
    if "rules" in data:
        shared["rules"] = data["rules"].replace("\n", ",")
    return shared


def _name_alone(source: Mapping[str, Any]) -> dict[str, Any]:
    if "recipe" in source:
        return {**source, "path": ModelSource(source["path"]).name, "recipe": without_folders(source["recipe"])}
    named = {**source, "path": ModelSource(source["path"]).name, "sha256": (source.get("sha256") or "")[:SHORT] or None}
    return {name: value for name, value in named.items() if value is not None}


def _typed_without_folders(recipe: MergeRecipe) -> MergeRecipe:
    """Name the models without folders, but for those whose sizes stand in the recipe, which was read from a file."""

    def named(source: ModelSource, _: FileRole) -> ModelSource:
        if source.recipe is not None:
            return replace(source, path=source.name, recipe=_typed_without_folders(source.recipe))
        return source if source.size is not None else replace(source, path=source.name)

    return with_each(recipe, named)


def name_recipe(recipe: MergeRecipe) -> str:
    """Describe a recipe in one line."""
    names = _model_names(recipe)[: 1 if recipe.has_one_model else None]
    pieces = [f"{recipe.mode.value} of {', '.join(names)}", f"alpha {format_ratio(recipe.alpha)}"]
    if recipe.only_changes_a:
        pieces = names
    if recipe.beta is not None:
        pieces.append(f"beta {format_ratio(recipe.beta)}")
    pieces += [f"{role.name} {format_ratio(m.ratio)}" for role, m in zip(MORE_ROLES, recipe.more, strict=False)]
    if recipe.numbers:
        pieces.append(format_numbers(recipe.numbers))
    for name, weights in (("blocks", recipe.block_alpha), ("blocks beta", recipe.block_beta)):
        if weights is not None:
            pieces.append(f"{name} {format_block_weights(weights)}")
    if recipe.rules.rules:
        pieces.append(f"rules {', '.join(map(str, recipe.rules.rules))}")
    if recipe.adjust is not None:
        pieces.append(f"adjust {format_adjust(recipe.adjust)}")
    pieces += [f"LoRA {name_lora(lora)}" for lora in recipe.loras]
    return "; ".join(pieces)


def name_lora(lora: LoraSource) -> str:
    """Describe a LoRA of a recipe in a few words: its file, and its ratios."""
    te = "" if lora.ratio_te is None else f", text encoders {format_ratio(lora.ratio_te)}"
    return f"{PurePath(lora.file.name).stem} {format_ratio(lora.ratio)}{te}"


def _model_names(recipe: MergeRecipe) -> list[str]:
    """Name models A, B, C and further ones."""
    return [PurePath(source.name).stem for role, source in recipe.sources.items() if role != Role.VAE.value]


def _merged_names(recipe: MergeRecipe) -> list[str]:
    """Name what is merged, each once: the models, and LoRAs."""
    loras = [PurePath(lora.file.name).stem for lora in recipe.loras]
    return list(dict.fromkeys([*_model_names(recipe), *loras])) if loras else _model_names(recipe)


def with_hashes(recipe: MergeRecipe, facts: Mapping[FileRole, SourceFacts]) -> MergeRecipe:
    """Add the files' hashes and sizes to a recipe."""

    def known(source: ModelSource, role: FileRole) -> ModelSource:
        fact = facts[role]
        if source.recipe is not None and fact.inner is not None:
            return replace(source, recipe=with_hashes(source.recipe, fact.inner))
        return replace(source, sha256=fact.sha256, size=fact.size)

    return with_each(recipe, known)


def with_files(recipe: MergeRecipe, change: Callable[[ModelSource, FileRole], ModelSource]) -> MergeRecipe:
    """Change the entry of each file of a recipe, and of the recipes in it.

    Raises:
        CheckpointError: As ``change`` does; the message names the recipes that lead to the file.
    """

    def changed(source: ModelSource, role: FileRole) -> ModelSource:
        if source.recipe is None:
            return change(source, role)
        try:
            return replace(source, recipe=with_files(source.recipe, change))
        except CheckpointError as exc:
            raise CheckpointError(f"{describe_place(role.spoken, source)}: {exc}") from exc

    return with_each(recipe, changed)


def with_each(recipe: MergeRecipe, change: Callable[[ModelSource, FileRole], ModelSource]) -> MergeRecipe:
    """Change the entry of each file and recipe that stands in a recipe, not of those within."""
    loras = tuple(replace(lora, file=change(lora.file, LoraRole(place))) for place, lora in enumerate(recipe.loras))
    further = zip(MORE_ROLES, recipe.more, strict=False)
    more = (replace(model, file=change(model.file, role)) for role, model in further)
    return replace(
        recipe,
        model_a=change(recipe.model_a, Role.A),
        model_b=change(recipe.model_b, Role.B),
        model_c=recipe.model_c and change(recipe.model_c, Role.C),
        vae_file=recipe.vae_file and change(recipe.vae_file, Role.VAE),
        loras=loras,
        rules=renamed_targets(recipe.rules, recipe.loras, loras),
        more=tuple(more),
    )


def _webui_recipe(plan: MergePlan, facts: Mapping[FileRole, SourceFacts]) -> dict[str, Any]:
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


def _webui_models(recipe: MergeRecipe, facts: Mapping[FileRole, SourceFacts]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for role, source in recipe.sources.items():
        fact = facts[Role(role)]
        if source.recipe is not None and fact.inner is not None:
            models |= _webui_models(source.recipe, fact.inner)
        if role == Role.VAE.value or fact.sha256 is None:
            continue
        models[fact.sha256] = {
            "name": source.name,
            "legacy_hash": fact.legacy_hash,
            "sd_merge_recipe": read_object(fact.metadata.get(FOREIGN_FIELD)) or None,
        }
        models.update(read_object(fact.metadata.get(MODELS_FIELD)))
    return models
