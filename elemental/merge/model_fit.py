"""Whether the models of a recipe fit together, from their keys, shapes and number formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..architectures.blocks import Architecture
from ..architectures.detection import detect_architecture
from ..architectures.keys import FIRST_CONV, PREFIXES, Component, KeyName, is_vae_key
from ..errors import MergeError
from ..recipe.recipe import MergeRecipe, SaveDtype, VaeChoice
from ..recipe.spec_warnings import SpecWarning
from .files.tensor_info import TensorInfo
from .plan import Infos, Role

ModelInfos = Mapping[Role, Infos]
"""Number format and shape of each tensor, for every file of a recipe."""

VAE_ROLES = {VaeChoice.A: Role.A, VaeChoice.B: Role.B, VaeChoice.FILE: Role.VAE}
"""The file that the VAE is taken from whole."""

_SAVED_AS = {SaveDtype.FP16: "F16", SaveDtype.BF16: "BF16", SaveDtype.FP32: "F32"}

_SHOWN_SHAPES = 3
_INPAINTING_CHANNELS = 9

# Empty tensors that tell how a model was trained; source: comfy/supported_models.py, github.com/comfyanonymous/ComfyUI
_MARKERS = {"v_pred": "v-prediction", "ztsnr": "zero-terminal-SNR"}


def refuse_scaled_fp8(models: ModelInfos) -> None:
    """Refuse fp8 files whose numbers are weights only when multiplied by a scale stored beside them.

    Raises:
        MergeError: A model is such a file.
    """
    for role, infos in models.items():
        key = next((key for key in infos if key == "scaled_fp8" or key.endswith(".scale_weight")), None)
        if key is not None:
            scaled = f"The numbers of {role.spoken} are scaled fp8 ({key}), which cannot be merged"
            raise MergeError(f"{scaled}; use its fp16 file.")


def common_architecture(models: ModelInfos) -> Architecture:
    """Detect the architecture of the models.

    Raises:
        CheckpointError: A model is of an architecture that cannot be merged.
        MergeError: The models are of different architectures.
    """
    architectures = {
        role: detect_architecture({key: info.shape for key, info in infos.items()}, name=f"Model {role.name}")
        for role, infos in models.items()
        if role is not Role.VAE
    }
    if len(set(architectures.values())) > 1:
        each = ", ".join(f"{role.name} is {architecture.name}" for role, architecture in architectures.items())
        raise MergeError(f"ModelInfos of different architectures cannot be merged: {each}.")
    return architectures[Role.A]


def result_infos(recipe: MergeRecipe, models: ModelInfos) -> dict[str, TensorInfo]:
    """Give the keys of the result, with number formats and shapes.

    They are A's. If A has no VAE and the recipe takes one from another file, that VAE is added.

    Raises:
        MergeError: The file that the VAE is to be taken from does not have a whole one.
    """
    infos = {**models[Role.A], **_added_vae(recipe, models)}
    if recipe.dtype is None:
        return infos
    saved = _SAVED_AS[recipe.dtype]
    return {key: info._replace(dtype=saved) if info.is_float else info for key, info in infos.items()}


def _added_vae(recipe: MergeRecipe, models: ModelInfos) -> Infos:
    source = VAE_ROLES.get(recipe.vae)
    if source is None:
        return {}
    vae = {key: info for key, info in models[source].items() if is_vae_key(key)}
    keys_of_a = [key for key in models[Role.A] if is_vae_key(key)]
    missing = next((key for key in keys_of_a if key not in vae), None)
    if not vae or missing:
        lack = f"lacks {missing}" if missing and vae else "has no VAE"
        raise MergeError(f"The VAE cannot be taken from {source.spoken}, which {lack}.")
    return {} if keys_of_a else vae


def check_shapes(infos: Infos, inputs: Iterable[tuple[str, tuple[Role, ...]]], models: ModelInfos) -> None:
    """Make sure that every input has the shape of its result.

    Args:
        infos: The tensors of the result.
        inputs: For each key the models that it may be computed from.
        models: The files.

    Raises:
        MergeError: A shape differs, other than that of an inpainting model's first convolution.
    """
    unlike = [
        f"{key} is {list(infos[key].shape)} in the result, {list(shape)} in {role.spoken}"
        for key, roles in inputs
        for role in roles
        if not _can_merge_shapes(key, infos[key].shape, shape := models[role][key].shape)
    ]
    if not unlike:
        return
    channels = [infos[FIRST_CONV].shape[1] for role, infos in models.items() if role is not Role.VAE]
    swapped = _INPAINTING_CHANNELS in channels[1:] and channels[0] != _INPAINTING_CHANNELS
    swap = "\nAn inpainting model (9 channels) must be model A." if swapped else ""
    more = f"\n... and {len(unlike) - _SHOWN_SHAPES} more" if len(unlike) > _SHOWN_SHAPES else ""
    raise MergeError("The models' shapes differ:\n" + "\n".join(unlike[:_SHOWN_SHAPES]) + more + swap)


def _can_merge_shapes(key: str, result: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if key == FIRST_CONV and (result[1], shape[1]) == (_INPAINTING_CHANNELS, 4):
        return result[0] == shape[0] and result[2:] == shape[2:]
    return result == shape


def left_out_keys(models: ModelInfos, result: Infos) -> dict[Role, tuple[str, ...]]:
    """List the keys of B and of C that the result does not have."""
    others = {role: infos for role, infos in models.items() if role in (Role.B, Role.C)}
    return {role: tuple(key for key in infos if key not in result) for role, infos in others.items()}


def warn_of_models(names: Sequence[KeyName], models: ModelInfos) -> Iterator[SpecWarning]:
    """Warn of models trained in different ways, and of parts that are not merged because their keys differ from A's.

    Args:
        names: The tensors of the result.
        models: The files.
    """
    for role, infos in models.items():
        if role in (Role.B, Role.C):
            yield from _warn_of_training(role, infos, models[Role.A])
            yield from _warn_of_unmerged_parts(role, infos, names, models[Role.A])


def _warn_of_training(role: Role, infos: Infos, infos_a: Infos) -> Iterator[SpecWarning]:
    for marker, meaning in _MARKERS.items():
        if (marker in infos_a) != (marker in infos):
            marked, other = (Role.A, role) if marker in infos_a else (role, Role.A)
            yield SpecWarning(f'{marked.name} is marked as {meaning} ("{marker}") and {other.name} is not.')


def _warn_of_unmerged_parts(
    role: Role, infos: Infos, names: Sequence[KeyName], infos_a: Infos
) -> Iterator[SpecWarning]:
    for component in (Component.TEXT_ENCODER, Component.VAE):
        keys = [name.key for name in names if name.component is component and name.key in infos_a]
        has_component = any(key.startswith(PREFIXES[component]) for key in infos)
        if keys and has_component and not any(key in infos for key in keys):
            part = f"The {component.value} of {role.name}"
            yield SpecWarning(f"{part} has other names for its tensors than A's; none of it is merged.")
