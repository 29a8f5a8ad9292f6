"""The pass over whole models that finds what some modes need before anything can be merged."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ..architectures.keys import Component
from ..errors import MergeError, RecipeError, Stopped
from ..recipe.numbers import measured_numbers
from .computation import Computation, TensorReader
from .execute import one_torch_thread_each
from .out_of_memory import is_out_of_memory
from .plan import MergePlan, Role, TensorPlan
from .progress import Controls

_PARTS = (Component.UNET, Component.TEXT_ENCODER)
_MAX_THREADS = 3
_POLL_SECONDS = 0.1


def survey_models(plan: MergePlan, models: Mapping[Role, TensorReader], controls: Controls) -> Mapping[str, float]:
    """Find the numbers of a plan's mode in the models, tensor by tensor; a few threads hold a few pieces each.

    The tensors are those that the plan merges in the U-Net and the text encoders, whatever their ratios.

    Args:
        plan: A plan of all tensors, of a mode with a ``model_survey``.
        models: A reader for each model of the plan.
        controls: Progress, in bytes of the result's tensors, and stop.

    Raises:
        CheckpointError: A tensor cannot be read.
        RecipeError: There is no tensor with finite numbers in all models.
        Stopped: ``controls`` asked to stop.
    """
    survey = plan.mode.record.model_survey
    assert survey is not None
    tensors = [t for t in plan.tensors if t.name.component in _PARTS and len(t.inputs) > 1 and t.info.numel]
    computation = Computation(plan, models)

    def look_at(tensor: TensorPlan) -> array[float]:
        return survey.of_tensor(*computation.read_all(tensor))

    controls.begin(sum(tensor.info.nbytes for tensor in tensors))
    controls.stage("measuring")
    with one_torch_thread_each():
        counted = _collect(look_at, tensors, controls)
    controls.stage("merging")
    if not any(map(math.isfinite, counted)):
        given = " ".join(f"--number {name}=..." for name in measured_numbers(plan.mode))
        raise RecipeError(
            f"{plan.mode.value} finds nothing to measure: the models have no tensor of a U-Net or text encoder with "
            f"finite numbers in common. Give its numbers: {given} (Numbers in the tab)."
        )
    return survey.of_all(counted)


def _collect(
    look_at: Callable[[TensorPlan], array[float]], tensors: Sequence[TensorPlan], controls: Controls
) -> array[float]:
    """Look at all tensors, and give what counts of them, in any order."""
    counted = array("d")
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="survey") as pool:
        pending: dict[Future[array[float]], int] = {}
        try:
            pending.update((pool.submit(look_at, tensor), tensor.info.nbytes) for tensor in tensors)
            while pending:
                for done in wait(pending, _POLL_SECONDS, FIRST_COMPLETED).done:
                    counted.extend(done.result())
                    controls.advance(pending.pop(done))
                if controls.should_stop():
                    raise Stopped
        except (MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            raise MergeError("Out of memory: there is too little to look at the models; close other programs.") from exc
        finally:
            for left in pending:
                left.cancel()
    return counted
