"""Merge Stable Diffusion checkpoints element by element.

Importing the package, reading specs and planning load neither torch nor any user interface. A name is imported when it
is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import (
        CheckpointError,
        ElementalError,
        HostError,
        ImageError,
        MergeError,
        RecipeError,
        SpecError,
        Stopped,
    )
    from .merge.files.checkpoint import Checkpoint
    from .merge.files.model_locator import ModelLocator, model_source
    from .merge.merge_to_file import MergeResult, merge_to_file
    from .merge.plan import MergePlan, Role, TensorPlan
    from .merge.progress import Controls
    from .modes.catalogue import MergeMode
    from .recipe.block_weights import BlockWeights, parse_block_weights
    from .recipe.recipe import LoraSource, MergeRecipe, ModelSource, MoreModel, SaveDtype, VaeChoice
    from .recipe.rules import Rule, RuleSet, format_rules
    from .recipe.spec_parser import parse_rules
    from .searches.search import search
    from .workflows import live_merge, make_images, plan_merge, read_recipe

__version__ = "0.2.0"

__all__ = [
    "BlockWeights",
    "Checkpoint",
    "CheckpointError",
    "Controls",
    "ElementalError",
    "HostError",
    "ImageError",
    "LoraSource",
    "MergeError",
    "MergeMode",
    "MergePlan",
    "MergeRecipe",
    "MergeResult",
    "ModelLocator",
    "ModelSource",
    "MoreModel",
    "RecipeError",
    "Role",
    "Rule",
    "RuleSet",
    "SaveDtype",
    "SpecError",
    "Stopped",
    "TensorPlan",
    "VaeChoice",
    "format_rules",
    "live_merge",
    "make_images",
    "merge_to_file",
    "model_source",
    "parse_block_weights",
    "parse_rules",
    "plan_merge",
    "read_recipe",
    "search",
]

_HOMES = {
    "BlockWeights": ".recipe.block_weights",
    "Checkpoint": ".merge.files.checkpoint",
    "CheckpointError": ".errors",
    "Controls": ".merge.progress",
    "ElementalError": ".errors",
    "HostError": ".errors",
    "ImageError": ".errors",
    "LoraSource": ".recipe.recipe",
    "MergeError": ".errors",
    "MergeMode": ".modes.catalogue",
    "MergePlan": ".merge.plan",
    "MergeRecipe": ".recipe.recipe",
    "MergeResult": ".merge.merge_to_file",
    "ModelLocator": ".merge.files.model_locator",
    "ModelSource": ".recipe.recipe",
    "MoreModel": ".recipe.recipe",
    "RecipeError": ".errors",
    "Role": ".merge.plan",
    "Rule": ".recipe.rules",
    "RuleSet": ".recipe.rules",
    "SaveDtype": ".recipe.recipe",
    "SpecError": ".errors",
    "Stopped": ".errors",
    "TensorPlan": ".merge.plan",
    "VaeChoice": ".recipe.recipe",
    "format_rules": ".recipe.rules",
    "live_merge": ".workflows",
    "make_images": ".workflows",
    "merge_to_file": ".merge.merge_to_file",
    "model_source": ".merge.files.model_locator",
    "parse_block_weights": ".recipe.block_weights",
    "parse_rules": ".recipe.spec_parser",
    "plan_merge": ".workflows",
    "read_recipe": ".workflows",
    "search": ".searches.search",
}
"""The module of each name. Importing all of them takes as long as planning a merge, which needs half of them."""

if not TYPE_CHECKING:  # or a type checker would believe that there is every name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
        return value

    def __dir__() -> list[str]:
        """List the names of the module, those that are not imported yet, too."""
        return sorted({*globals(), *__all__})
