"""What identifies the numbers of a tensor: the files and the formulas that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .chained_model import ChainedModel
from .files.checkpoint import Checkpoint
from .files.lora_file import OpenLora
from .models import Model
from .plan import MergePlan, Role, TensorPlan


def identify_result(
    tensor: TensorPlan, plan: MergePlan, models: Mapping[Role, Model], loras: Sequence[OpenLora] = ()
) -> object:
    """Identify the numbers of a result before they are rounded: identities are equal only if the numbers are.

    Args:
        tensor: The tensor.
        plan: The plan that it is from.
        models: The models of the plan.
        loras: Its LoRAs.
    """
    inputs = tuple(identify_tensor(models[role], tensor.name.key) for role in tensor.inputs)
    ratios = tensor.alpha, tensor.beta, *filter(None, tensor.more)
    merged = inputs[0] if len(inputs) == 1 else (inputs, plan.mode, plan.recipe.numbers, *ratios)
    if tensor.adjusted is not None:
        merged = (merged, tensor.adjusted)
    added = tuple((_identify_file(loras[use.place].file), use.ratio) for use in tensor.loras)
    return (merged, added) if added else merged


def identify_tensor(model: Model, key: str) -> object:
    """Identify the numbers of a model's tensor: equal only of the same file, unchanged, or of equal merges of such."""
    if isinstance(model, ChainedModel):
        return identify_result(model.planned(key), model.plan, model.models, model.loras)
    return tuple(map(_identify_file, model.files))


def _identify_file(file: Checkpoint) -> object:
    return str(file.path), file.identity
