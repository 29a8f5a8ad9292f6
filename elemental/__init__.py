"""Merge Stable Diffusion checkpoints element by element.

Importing the package, reading specs and planning load neither torch nor any user interface.
"""

from __future__ import annotations

from .errors import CheckpointError, ElementalError, HostError, ImageError, MergeError, RecipeError, SpecError, Stopped
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
]
