"""Whether the models of a recipe fit together, from their keys, shapes and number formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..architectures.blocks import Architecture
from ..architectures.detection import detect_architecture, input_channels
from ..architectures.keys import EMA_PREFIX, FIRST_CONV, UNET_PREFIX, is_vae_key, shown_key
from ..errors import MergeError
from ..recipe.recipe import MergeRecipe, SaveDtype, VaeChoice
from ..recipe.spec_warnings import SpecWarning
from .files.tensor_info import TensorInfo
from .plan import OTHER_MODELS, Infos, Role, TensorPlan
from .quantised import find_lone_factor, find_quantised, find_unknown_beside_fp8
from .shape_fit import LATENT_CHANNELS, input_kind

if TYPE_CHECKING:
    from ..lora.layers import LoraLayers

ModelInfos = Mapping[Role, Infos]
"""Number format and shape of each tensor, for every file of a recipe."""

VAE_ROLES = {VaeChoice.A: Role.A, VaeChoice.B: Role.B, VaeChoice.FILE: Role.VAE}
"""The file that the VAE is taken from whole."""

_SHOWN = 3
_SAVED_AS = {SaveDtype.FP16: "F16", SaveDtype.BF16: "BF16", SaveDtype.FP32: "F32"}

# Tensors that tell how a model was trained. Sources: comfy/supported_models.py of github.com/comfyanonymous/ComfyUI
# (SDXL.model_type), modules/sd_models.py of github.com/AUTOMATIC1111/stable-diffusion-webui
_EDM = "EDM v-prediction"
_PLAYGROUND = "EDM with latents of another mean, as Playground v2.5"
_V = "v_pred"
_MARKERS = {
    _V: "v-prediction",
    "ztsnr": "zero-terminal-SNR",
    "edm_vpred.sigma_max": _EDM,
    "edm_vpred.sigma_min": _EDM,
    "edm_mean": _PLAYGROUND,
    "edm_std": _PLAYGROUND,
}


@dataclass(frozen=True)
class FileFacts:
    """What is known of the files of a recipe besides their tensors.

    Attributes:
        headers: The text fields in their headers.
        same: The models that are one and the same file, whatever their paths.
        renamings: For each file in words how it spells its keys otherwise, and what of it is not read.
        v_configs: The models beside which a ``.yaml`` says that they predict v.
        doubts: In sentences, what of the files is not read though it may be meant, and which may not be the recipe's.
        loras: The name of each LoRA's file, and its layers.
    """

    headers: Mapping[Role, Mapping[str, str]] = field(default_factory=dict)
    same: Sequence[Role] = ()
    renamings: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    v_configs: Sequence[Role] = ()
    doubts: tuple[str, ...] = ()
    loras: Sequence[tuple[str, LoraLayers]] = ()


def refuse_quantised(models: ModelInfos, files: FileFacts) -> None:
    """Refuse files whose numbers are weights only together with factors that are stored beside them.

    Raises:
        MergeError: A model is such a file.
    """
    for role, infos in models.items():
        found = find_quantised(infos, files.headers.get(role))
        if found is not None:
            numbers = f"The numbers of {role.spoken} are {found.format} ({shown_key(found.sign)})"
            raise MergeError(f"{numbers}, which cannot be merged as they are; use its fp16 or bf16 file.")


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
        raise MergeError(f"Models of different architectures cannot be merged: {each}.")
    return architectures[Role.A]


def result_infos(recipe: MergeRecipe, models: ModelInfos) -> dict[str, TensorInfo]:
    """Give the keys of the result, with number formats and shapes.

    They are A's, without EMA weights if the recipe drops them. If A has no VAE and the recipe takes one from another
    file, that VAE is added.

    Raises:
        MergeError: The file that the VAE is to be taken from does not have a whole one.
    """
    infos = {**models[Role.A], **_added_vae(recipe, models)}
    if recipe.drop_ema:
        infos = {key: info for key, info in infos.items() if not key.startswith(EMA_PREFIX)}
    if recipe.dtype is None:
        return infos
    saved = _SAVED_AS[recipe.dtype]
    return {key: info._replace(dtype=saved) if _is_converted(key, info) else info for key, info in infos.items()}


def _is_converted(key: str, info: TensorInfo) -> bool:
    return info.is_float and not key.endswith("position_ids")  # an index, even where it is damaged


def _added_vae(recipe: MergeRecipe, models: ModelInfos) -> Infos:
    source = VAE_ROLES.get(recipe.vae)
    if source is None:
        return {}
    vae = {key: info for key, info in models[source].items() if is_vae_key(key)}
    keys_of_a = [key for key in models[Role.A] if is_vae_key(key)]
    missing = next((key for key in keys_of_a if key not in vae), None)
    if not vae or missing:
        lack = f"lacks {shown_key(missing)}" if missing and vae else "has no VAE"
        raise MergeError(f"The VAE cannot be taken from {source.spoken}, which {lack}.")
    return {} if keys_of_a else vae


def left_out_keys(models: ModelInfos, recipe: MergeRecipe, result: Infos) -> dict[Role, tuple[str, ...]]:
    """List the keys of models that the result does not have; of A its EMA weights, if the recipe drops them."""
    left_out: dict[Role, tuple[str, ...]] = {}
    for role, infos in models.items():
        keys = tuple(key for key in infos if key not in result)
        if role in OTHER_MODELS:
            left_out[role] = tuple(key for key in keys if not (recipe.drop_ema and key.startswith(EMA_PREFIX)))
        elif role is Role.A and recipe.drop_ema:
            left_out[role] = keys
    return left_out


def warn_of_models(models: ModelInfos, files: FileFacts) -> Iterator[SpecWarning]:
    """Warn of models trained in different ways, or for different inputs, of factors, and of damage in A.

    Args:
        models: The files.
        files: What else is known of them.
    """
    for key, info in models[Role.A].items():
        if key.endswith("position_ids") and info.is_float:
            yield SpecWarning(
                f"{shown_key(key)} of A holds floats ({info.dtype}), damage that some mergers leave; "
                "it is copied as it is."
            )
    for role, infos in models.items():
        yield from _warn_of_factors(role, infos)
        if role in OTHER_MODELS:
            yield from _warn_of_training(role, infos, models[Role.A])
            yield from _warn_of_v(role, models, files)
            yield from _warn_of_inputs(role, infos, models[Role.A])


def _warn_of_factors(role: Role, infos: Infos) -> Iterator[SpecWarning]:
    """Warn of what may be factors of weights, though not surely enough to refuse the file."""
    if (found := find_lone_factor(infos)) is not None:
        factor, weight = map(shown_key, found)
        yield SpecWarning(f"{factor} in {role.spoken} can be a factor of {weight}, which is merged without it.")
    if unknown := find_unknown_beside_fp8(infos):
        yield SpecWarning(
            f"The U-Net of {role.spoken} is fp8, and {len(unknown):,} tensors have unknown names, such as "
            f"{shown_key(unknown[0])}: if they are factors of its weights, the merge is wrong."
        )


def _warn_of_training(role: Role, infos: Infos, infos_a: Infos) -> Iterator[SpecWarning]:
    told: set[str] = set()
    for marker, meaning in _MARKERS.items():
        if marker != _V and (marker in infos_a) != (marker in infos) and meaning not in told:
            told.add(meaning)
            marked, other = (Role.A, role) if marker in infos_a else (role, Role.A)
            yield SpecWarning(f'{marked.name} is marked as {meaning} ("{marker}") and {other.name} is not.')
    for marked, own, other, others in ((Role.A, infos_a, role, infos), (role, infos, Role.A, infos_a)):
        if unknown := [key for key in own if key not in others and _is_unknown_marker(key, own[key])]:
            names = ", ".join(f'"{shown_key(key)}"' for key in unknown[:_SHOWN])
            more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
            yield SpecWarning(f"{marked.name} is marked with {names}{more} and {other.name} is not.")


def _warn_of_v(role: Role, models: ModelInfos, files: FileFacts) -> Iterator[SpecWarning]:
    """Warn if one of two models predicts v, as a tensor in it or the configuration beside it says."""
    signs = {
        each: f'"{_V}"' if _V in models[each] else "the .yaml beside it"
        for each in (Role.A, role)
        if _V in models[each] or each in files.v_configs
    }
    if len(signs) == 1:
        ((marked, sign),) = signs.items()
        other = role if marked is Role.A else Role.A
        yield SpecWarning(f"{marked.name} is marked as {_MARKERS[_V]} ({sign}) and {other.name} is not.")


def _is_unknown_marker(key: str, info: TensorInfo) -> bool:
    """Tell whether a tensor is empty, so that it can only be a mark, and none of those that are known."""
    return info.numel == 0 and "." not in key and key not in _MARKERS


def _warn_of_inputs(role: Role, infos: Infos, infos_a: Infos) -> Iterator[SpecWarning]:
    own, theirs = (input_channels({FIRST_CONV: each[FIRST_CONV].shape}) for each in (infos_a, infos))
    if own > theirs > LATENT_CHANNELS:
        yield SpecWarning(
            f"A is {input_kind(own)} and {role.name} is {input_kind(theirs)}: of the first convolution only the "
            f"{LATENT_CHANNELS} channels of the image are merged."
        )


def warn_of_channels(models: ModelInfos, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
    """Warn if a model of fewer input channels keeps another one's from being merged.

    Args:
        models: The files.
        tensors: The plan of all tensors.
    """
    inputs = next(tensor.inputs for tensor in tensors if tensor.name.key == FIRST_CONV)
    kinds = {role: input_channels({FIRST_CONV: models[role][FIRST_CONV].shape}) for role in inputs}
    own = kinds.pop(Role.A, 0)
    wide = [role.name for role, channels in kinds.items() if channels == own]
    narrow = [role.name for role, channels in kinds.items() if channels == LATENT_CHANNELS < own]
    if wide and narrow:
        yield SpecWarning(
            f"A and {wide[0]} are {input_kind(own)} and {narrow[0]} is not: of the first convolution only the "
            f"{LATENT_CHANNELS} channels of the image are merged."
        )


def warn_of_ema(tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
    """Warn of EMA weights in the result that are no average of its U-Net.

    Two sets of EMA weights that are merged exactly like the U-Nets are the average of the merged one.

    Args:
        tensors: The plan of all tensors.
    """
    ema = {tensor.name.key: tensor for tensor in tensors if _is_ema_weight(tensor.name.key)}
    if not ema:
        return
    unet = [tensor for tensor in tensors if tensor.name.key.startswith(UNET_PREFIX)]
    pairs = [(tensor, ema[key]) for tensor in unet if (key := _ema_key(tensor.name.key)) in ema]
    alike = all(_merged_as(one) == _merged_as(other) for one, other in pairs)
    kept = all(not one.changed and not other.changed for one, other in pairs)
    if not (alike or kept) or (not pairs and any(tensor.changed for tensor in unet)):
        yield SpecWarning(
            f"The EMA weights of A ({EMA_PREFIX}*, {len(ema):,} tensors) are no average of the merged U-Net; "
            '--drop-ema leaves them out ("Leave out EMA weights" in the tab).'
        )


def _merged_as(tensor: TensorPlan) -> object:
    return tensor.inputs, tensor.alpha, tensor.beta, tensor.loras, tensor.more, tensor.adjusted


def _is_ema_weight(key: str) -> bool:
    return key.startswith(EMA_PREFIX) and key not in (f"{EMA_PREFIX}decay", f"{EMA_PREFIX}num_updates")


def _ema_key(key: str) -> str:
    """Give the key of a U-Net tensor's average: LitEma of latent-diffusion leaves out the dots."""
    return EMA_PREFIX + key.removeprefix("model.").replace(".", "")
