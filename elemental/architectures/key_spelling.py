"""Other spellings of checkpoint keys -> the one that this program uses, that of the original SD and SDXL checkpoints.

The same tensors are saved under several names. Whoever wrote them, and where that is read:

- SD 1.x without ``text_model.`` (NAI, transformers 5.6 and newer), SD 2.x in the layout of SDXL: modules/sd_models.py
  of github.com/AUTOMATIC1111/stable-diffusion-webui; SDXL without it: github.com/bghira/SimpleTuner/pull/2759.
- ``text_encoders.`` and ``vae.``: Forge before February 2025;
  github.com/lllyasviel/stable-diffusion-webui-forge/pull/2636.
- ``clip_l.``, ``clip_g.``, ``clip_h.``: comfy/supported_models.py of github.com/comfyanonymous/ComfyUI.
- A U-Net with ``diffusion_model.``, ``net.``, ``unet.``, ``model.`` or nothing before it: comfy/model_detection.py
  there, github.com/Comfy-Org/ComfyUI/issues/4424, and src/model.cpp of github.com/leejet/stable-diffusion.cpp, which
  also has ``te.`` and ``text_encoder.``.
- ``_orig_mod.`` of torch.compile, ``module.`` of DataParallel, ``_fsdp_wrapped_module.`` and
  ``_checkpoint_wrapped_module.``: what torch puts between the names of wrapped modules.
- ``state_dict.``, ``model.`` before whole checkpoints: trainers that save a module which holds the model.

CLIP-G as transformers has it (``text_encoders.clip_g.transformer.text_model``) holds three tensors where OpenCLIP has
one; no other spelling makes them the same, so it keeps its names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from .keys import EMA_PREFIX, TEXT_PREFIXES, UNET_PREFIX, VAE_PREFIX

_WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_WRAPPER = re.compile(rf"(?<![^.])(?:{'|'.join(map(re.escape, _WRAPPERS))})")
_OUTER = r"(?:(?:model|net|unet|state_dict|model_state_dict|diffusion_model)\.)*"
_OUTER_WORDS = re.compile(_OUTER)
_FIRST, _LAST_BLOCKS = "input_blocks.0.0.weight", "output_blocks.0.0."
_UNET_HEADS = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.0.", "out.2.")
_HALF = r"(?:conv_in|conv_out|norm_out|mid|down|up)\."
_VAE_TENSOR = rf"(?:(?:encoder|decoder)\.{_HALF}|(?:post_)?quant_conv\.|loss\.)"
_DIFFUSERS_VAE = ("decoder.up_blocks.", "encoder.down_blocks.")
_CLIP_TENSOR = r"(?:embeddings|encoder|final_layer_norm)\."
_OPEN_CLIP_TENSOR = (
    r"(?:transformer\.resblocks\.|token_embedding\.|ln_final\.|"
    r"(?:positional_embedding|text_projection|logit_scale|attn_mask)$)"
)
_CLIP_L, _XL_CLIP_L = "cond_stage_model.transformer.text_model.", "conditioner.embedders.0.transformer.text_model."
_OPEN_CLIP, _XL_OPEN_CLIP = "cond_stage_model.model.", "conditioner.embedders.1.model."
_USUAL = (UNET_PREFIX, VAE_PREFIX, _CLIP_L, _OPEN_CLIP, EMA_PREFIX)
_XL_USUAL = (UNET_PREFIX, VAE_PREFIX, _XL_CLIP_L, _XL_OPEN_CLIP, EMA_PREFIX)


class Spelling(NamedTuple):
    """How a file names its tensors.

    Attributes:
        file_keys: The key in the file for each key of this program's spelling, in the order of the file.
        renamings: What is spelled otherwise, in words such as '"vae." for "first_stage_model."'.
    """

    file_keys: Mapping[str, str]
    renamings: tuple[str, ...] = ()


class _Name(NamedTuple):
    """A key in this program's spelling, and what of it was another in the file: the start before, and now."""

    key: str
    before: str
    now: str


def spell_checkpoint(keys: Sequence[str]) -> Spelling:
    """Translate the keys of a checkpoint that holds a U-Net; of another file they stay as they are.

    Two tensors never get the same key: where one has the other's already, both keep their names.

    Args:
        keys: The keys of the file.
    """
    unchanged = dict(zip(keys, keys, strict=True))
    plain = _without_wrappers(keys) or unchanged
    root = _unet_root(plain.values())
    if root is None:
        return Spelling(unchanged)
    labels = root + "label_emb."
    labelled = any(name.startswith(labels) for name in plain.values())
    usual = _XL_USUAL if labelled else _USUAL
    if plain is unchanged and all(key.startswith(usual) for key in keys):
        return Spelling(unchanged)
    find = _Table(root, plain.values(), labelled=labelled).find
    names = {key: None if key == name and key.startswith(usual) else find(name) for key, name in plain.items()}
    # what the table does not know, such as a mark of v-prediction, is wrapped as well
    return _spell(
        {key: name or (_Name(plain[key], "", "") if plain[key] != key else None) for key, name in names.items()}
    )


def spell_vae(keys: Sequence[str]) -> Spelling:
    """Translate the keys of a VAE file, or of the VAE in another file; of the rest they stay as they are.

    Args:
        keys: The keys of the file.
    """
    plain = _without_wrappers(keys) or dict(zip(keys, keys, strict=True))
    find = _vae_finder(plain.values(), alone=True)
    return _spell({key: find(name) for key, name in plain.items()})


def _without_wrappers(keys: Sequence[str]) -> dict[str, str] | None:
    """Give each key without the names of modules that only wrap others; None if there are no such names."""
    text = "\n".join(keys)
    if not any(wrapper in text for wrapper in _WRAPPERS):
        return None
    return {key: _WRAPPER.sub("", key) for key in keys}


def _unet_root(names: Iterable[str]) -> str | None:
    """Find what stands before the U-Net's blocks; None if there is no U-Net, or if there are several.

    A ControlNet has input blocks, too, but no output blocks.
    """
    roots = {name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST)}
    if UNET_PREFIX in roots:
        return UNET_PREFIX
    last = {name.partition(_LAST_BLOCKS)[0] for name in names if _LAST_BLOCKS in name}
    whole = [root for root in roots & last if _OUTER_WORDS.fullmatch(root)]
    return whole[0] if len(whole) == 1 else None


class _Table:
    """The table of names for one file.

    Args:
        root: What stands before the U-Net's blocks.
        names: The names of all tensors, without wrappers.
        labelled: Whether the U-Net is one of SDXL, which has labels.
    """

    def __init__(self, root: str, names: Iterable[str], *, labelled: bool) -> None:
        self._root = root
        whole = root.endswith("diffusion_model.")  # whatever else stands below such a name is the U-Net's, too
        self._unet = (root,) if whole else tuple(root + head for head in _UNET_HEADS)
        self._outer = root.removesuffix(UNET_PREFIX) if root.endswith(UNET_PREFIX) else ""
        self._find_vae = _vae_finder(names, alone=not root)
        open_clip = labelled or any(".resblocks." in name for name in names)
        self._texts = _text_patterns(labelled=labelled, open_clip=open_clip)

    def find(self, name: str) -> _Name | None:
        """Give the key of a tensor; None if it is none of those that the table knows."""
        if name.startswith(self._unet):
            return _Name(UNET_PREFIX + name[len(self._root) :], self._root, UNET_PREFIX)
        vae = self._find_vae(name)
        if vae is not None:
            return vae
        outer = _OUTER_WORDS.match(name).end()  # type: ignore[union-attr]  # it matches nothing, too
        inner = name[outer:]
        for pattern, now in self._texts:
            if match := pattern.match(inner):
                return _Name(now + inner[match.end() :], name[: outer + match.end()], now)
        if inner.startswith((*TEXT_PREFIXES, VAE_PREFIX, EMA_PREFIX)):
            return _Name(inner, name[:outer], "")
        if self._outer and name.startswith(self._outer):
            return _Name(name[len(self._outer) :], self._outer, "")
        return None


def _vae_finder(names: Iterable[str], *, alone: bool) -> Callable[[str], _Name | None]:
    """Make what finds the VAE's tensors; diffusers' layout is another one, whose tensors keep their names.

    Args:
        names: The names of all tensors.
        alone: Whether a VAE without prefix is taken for one.
    """
    prefix = rf"(?P<before>{_OUTER}(?:{re.escape(VAE_PREFIX)}|vae\.{'|' if alone else ''}))"
    pattern = re.compile(prefix + f"(?={_VAE_TENSOR})")
    if any(piece in name and not name.startswith(VAE_PREFIX) for name in names for piece in _DIFFUSERS_VAE):
        pattern = re.compile(rf"(?P<before>{_OUTER}{re.escape(VAE_PREFIX)})")

    def find(name: str) -> _Name | None:
        match = pattern.match(name)
        return None if match is None else _Name(VAE_PREFIX + name[match.end() :], match["before"], VAE_PREFIX)

    return find


def _text_patterns(*, labelled: bool, open_clip: bool) -> list[tuple[re.Pattern[str], str]]:
    """Give the patterns of what stands before the tensors of each text encoder, and what shall."""
    if labelled:
        clip = r"(?:conditioner\.embedders\.0|text_encoders\.clip_l|clip_l|text_encoder|te1?)\."
        other = r"(?:conditioner\.embedders\.1|text_encoders\.clip_g|clip_g|text_encoder_2|te2)\."
        clip_now, other_now = _XL_CLIP_L, _XL_OPEN_CLIP
    else:
        clip = r"(?:cond_stage_model|conditioner\.embedders\.0|text_encoders\.clip_l|clip_l|text_encoder|te1?)\."
        other = r"(?:cond_stage_model|conditioner\.embedders\.0|text_encoders\.clip_h|clip_h|text_encoder|te)\."
        clip_now, other_now = _CLIP_L, _OPEN_CLIP
    patterns = [(re.compile(rf"{clip}(?:transformer\.)?(?:text_model\.)?(?={_CLIP_TENSOR})"), clip_now)]
    if open_clip:
        patterns.append((re.compile(rf"{other}(?:open_clip\.)?(?:model\.)?(?={_OPEN_CLIP_TENSOR})"), other_now))
    return patterns


def _spell(names: Mapping[str, _Name | None]) -> Spelling:
    """Give each tensor its name, unless another tensor has it or gets it, too."""
    counts = Counter(name.key for name in names.values() if name is not None)
    file_keys: dict[str, str] = {}
    told: set[tuple[str, str, int]] = set()
    renamings: dict[str, None] = {}
    for key, name in names.items():
        if name is None or name.key == key or name.key in names or counts[name.key] > 1:
            file_keys[key] = key
            continue
        file_keys[name.key] = key
        kind = name.before, name.now, len(key) - len(name.key)
        if kind not in told:
            told.add(kind)
            renamings.update(dict.fromkeys(_words(key, name)))
    return Spelling(file_keys, tuple(renamings))


def _words(key: str, name: _Name) -> Iterable[str]:
    """Say how a key differs from its usual spelling."""
    if not name.before:
        yield from [f'no "{name.now}"'] if name.now else ()
    elif name.before != name.now:
        outer = name.before.removesuffix(name.now)
        yield f'"{outer}" before usual names' if outer != name.before else f'"{name.before}" for "{name.now}"'
    if len(key) != len(name.key) - len(name.now) + len(name.before):
        yield from (f'"{wrapper}" within names' for wrapper in _WRAPPERS if wrapper in key)
