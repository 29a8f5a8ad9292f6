"""What was meant by a word that is no block: only what is certain, so that a hint never selects other elements."""

from __future__ import annotations

import re

from ..architectures.blocks import ALIASES, BASE, LONGEST, TEXT_ENCODER, VAE, expand_block, normalise_block
from ..architectures.keys import FULL_KEY_PREFIXES, UNET_PREFIX
from .lookalikes import latin_text
from .rule_targets import ALL
from .rules import NOT

_SIDES = {
    "IN": ("IN", "INPUT", "INPUTS", "INP", "INN", "NI", "LN", "1N", "INPUT_BLOCK", "INPUT_BLOCKS"),
    "OUT": (
        "OUT",
        "OUTPUT",
        "OUTPUTS",
        "OTU",
        "UOT",
        "OT",
        "UT",
        "OOUT",
        "OUTT",
        "0UT",
        "OUTPUT_BLOCK",
        "OUTPUT_BLOCKS",
    ),
    "M": ("M", "MID", "MD", "MIDDLE", "MIDDLEBLOCK", "MIDDLE_BLOCK", "MID_BLOCK", "MIDBLOCK"),
}
_SIDE = {spelling: side for side, spellings in _SIDES.items() for spelling in spellings}
_OTHER_NAMES = {
    **dict.fromkeys(("CLIP", "TEXT", "TEXTENCODER", "TEXT_ENCODER", "TEXT-ENCODER"), TEXT_ENCODER),
    **dict.fromkeys(("UNET", "U-NET"), "IN00-OUT11"),
    **dict.fromkeys(("EXCEPT", "EXCLUDE", "WITHOUT", "BUT", "NO", "!"), NOT),
    **dict.fromkeys(("EVERY", "EVERYTHING", "ANY", "*", "**"), ALL),
}
_ON_SDXL = {"IN00-IN11": "IN00-IN08", "OUT00-OUT11": "OUT00-OUT08", "IN00-OUT11": "IN00-OUT08"}
_INVERTING = ("!", "~", "^", "-")
_LIKE_A_PART = re.compile(r"[a-z0-9_]+[._][a-z0-9_.]*|(?:attn|ff|norm|proj|conv|op|emb|skip|bias|weight|to_)[a-z0-9]*")


def suggest_blocks(word: str) -> str:
    """Suggest what was meant by a word that is no block, as the end of a sentence; empty if nothing is certain."""
    meant, extended = meant_blocks(word), extended_name(word)
    also = f'supermerger\'s extended SDXL name "{word}" is "{extended}" here' if extended else ""
    if meant == ALL:
        return "; for every block, write ALL, or nothing before the colon"
    if not meant:
        return f"; {also}" if also else ""
    latin = "" if latin_text(word) == word else " Some of its letters are not Latin ones."
    return f'; did you mean "{meant}"{_on_sdxl(meant)}?{latin}' + (f" Or, as {also}." if also else "")


def meant_blocks(word: str) -> str:
    """Give the block, range or blocks that a word was meant as; empty if that is not certain."""
    plain = latin_text(word.strip("\"'`()[]{}<>")).upper()
    if plain in _OTHER_NAMES:
        return _OTHER_NAMES[plain]
    if plain[:1] in _INVERTING and len(plain) > 1:
        rest = _name(plain[1:]) or meant_blocks(plain[1:])
        return f"{NOT} {rest}" if rest and not rest.startswith(NOT) else ""
    return _name(plain) or _without_star(plain) or _range(plain) or _list(plain) or _nearly_a_part(plain)


def extended_name(word: str) -> str:
    """Give what one of supermerger's names for parts of SDXL blocks is here, as ``blocks:elements``; empty for others.

    Source: BLOCKIDXLLL and blockfromkey in scripts/mergers/mergers.py of github.com/hako-mikan/sd-webui-supermerger:
    after the side come the block, the layer in it, and the transformer in that.
    """
    whole = {
        "CLIPL": ":conditioner.embedders.0.",
        "CLIPG": ":conditioner.embedders.1.",
        "TIME": "IN00:time_embed",
        "LABEL": "IN00:label_emb",
    }
    found = re.fullmatch(r"(IN|OUT|MID)([0-8])([0-2])([0-9])?", word.upper())
    if found is None:
        return whole.get(word.upper(), "")
    side, number, layer, transformer = found.groups()
    if side == "MID":
        return _extended("M00", "middle_block", number, transformer, attention=10) if layer == "0" else ""
    attention = {"IN": "0000220AA", "OUT": "AAA222000"}[side][int(number)]
    block, key = f"{side}0{number}", f"{side.lower()}put_blocks.{number}"
    if layer == "2":
        return f"{block}:2.conv" if side == "OUT" and number in "25" and transformer is None else ""
    return _extended(block, key, layer, transformer, attention=int(attention, 16))


def _extended(block: str, key: str, layer: str, transformer: str | None, *, attention: int) -> str:
    """Write one layer of a block, or one of its transformers, of which it has so many."""
    if layer != "1":
        return f":{UNET_PREFIX}{key}.{layer}." if transformer is None and layer in "02" else ""
    if transformer is None:  # all of the layer but its transformers
        return f":{UNET_PREFIX}{key}.1.norm {UNET_PREFIX}{key}.1.proj_" if attention else ""
    return f"{block}:transformer_blocks.{transformer}." if int(transformer) < attention else ""


def sides_of_key(word: str) -> list[str]:
    """Give a piece of a key as the left side of a rule, ``blocks:elements``; none if it is no such piece.

    The last of them selects what has this piece in its key in every checkpoint; one before it is shorter, but may
    select more.
    """
    key = word.removeprefix(UNET_PREFIX).removeprefix("diffusion_model.")
    found = re.fullmatch(r"(?:(input|output)_blocks\.([0-9]{1,2})|middle_block)(?:\.(.*))?", key)
    if found:
        side = {"input": "IN", "output": "OUT"}.get(found[1])
        block = f"{side}{int(found[2]):02}" if side else "M00"
        whole = [f":{UNET_PREFIX}{key}"] if found[3] else []
        return [f"{block}:{found[3] or ''}", *whole] if block in LONGEST.blocks else []
    if key.startswith(("time_embed.", "label_emb.")) or key in ("time_embed", "label_emb"):
        return [f"IN00:{key}"]
    if key.startswith("out."):
        return [f":{UNET_PREFIX}{key}"]
    is_piece = word.startswith(FULL_KEY_PREFIXES) or _LIKE_A_PART.fullmatch(word)
    return [f":{word}"] if is_piece and not is_of_diffusers(word) else []


def is_of_diffusers(word: str) -> bool:
    """Tell whether a word is a name of diffusers' layout, which no checkpoint here has."""
    return bool(re.search(r"(?:^|\.)(?:down_blocks|up_blocks|mid_block|resnets|attentions|time_embedding)\b", word))


def looks_like_block(word: str) -> bool:
    """Tell whether a word was meant as a block, though it may be none."""
    return bool(re.fullmatch(r"[!~^-]?[A-Z]{1,6}[0-9*?]*(?:-.*)?", word.upper())) and not sides_of_key(word)


def _on_sdxl(meant: str) -> str:
    shorter = _ON_SDXL.get(meant)
    return f' (SDXL: "{shorter}")' if shorter else ""


def _name(word: str) -> str:
    """Read one block whose number is certain: IN3, OUT_05, 0UT03, INPUT4, M."""
    name = normalise_block(word)
    if name is not None:
        return name
    if word in _SIDE:
        return {"IN": "IN00-IN11", "OUT": "OUT00-OUT11", "M": "M00"}[_SIDE[word]]
    found = re.fullmatch(r"([A-Z01_]*?[A-Z])[ _.#]*([0-9O]{1,3})", word)
    side = _SIDE.get(found[1].rstrip("_")) if found else None
    if found is None or side is None:
        return ""
    name = f"{side}{int(found[2].replace('O', '0')):02}"
    return name if name in LONGEST.blocks else ""


def _without_star(word: str) -> str:
    """Read IN*, OUT0*, IN?? and the like."""
    found = re.fullmatch(r"(IN|OUT|M|MID)([0-9]?)(?:\*+|\?+|%|XX?)", word)
    if found is None:
        return ""
    side = ALIASES.get(found[1], found[1])[:3].removesuffix("00")
    names = [name for name in LONGEST.unet_blocks if name.startswith(f"{side}{found[2]}")]
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}" if names else ""


def _range(word: str) -> str:
    """Read a range whose dash is missing or is something else, or whose second end has no side: IN00-11."""
    ends = re.split(r"-+>?|~|\.{2,}|>|_TO_|(?<=[0-9])TO(?=[IOM])|\u2192", word)
    if len(ends) < 2:
        return ""
    side = re.match(r"[A-Z]*", ends[0])
    names = [_single(end) or _single(f"{side[0] if side else ''}{end}") for end in ends]
    if not all(name in LONGEST.blocks for name in names):
        return ""
    order = [LONGEST.blocks.index(name) for name in names]
    return f"{names[0]}-{names[-1]}" if order in (sorted(order), sorted(order, reverse=True)) else ""


def _single(word: str) -> str:
    name = _name(word)
    return name if name and len(expand_block(name)) == 1 else ""


def _list(word: str) -> str:
    """Read blocks with something else than spaces between."""
    words = re.split(r"[/|+&;.]+|(?<=[0-9])(?=[A-Z])", word.strip("/|+&;."))
    names = [normalise_block(each) or "" for each in words]
    return " ".join(names) if all(names) and (len(names) > 1 or words[0] != word) else ""


def _nearly_a_part(word: str) -> str:
    """Read a misspelt BASE or VAE; these have no numbers that could be meant otherwise."""
    import difflib  # takes a while, and most specs have no mistakes

    near = difflib.get_close_matches(word, (BASE, VAE), n=2, cutoff=0.65) if word.isalpha() and len(word) > 2 else []
    return near[0] if len(near) == 1 else ""
