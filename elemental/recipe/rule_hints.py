"""What a rule or an element was meant as that cannot be read, as the ends of messages."""

from __future__ import annotations

import math
import re
from itertools import pairwise

from ..architectures.blocks import normalise_block
from .block_hints import is_of_diffusers, looks_like_block, meant_blocks, sides_of_key, suggest_blocks
from .ratio_targets import LORA, split_target
from .rule_targets import ALL
from .rules import NOT, format_ratio
from .spec_reader import Reader, parse_ratio

OF_DIFFUSERS = "; that is a name of diffusers' layout: elemental inspect CHECKPOINT --elements lists the names here"
"""What is said of a name that only diffusers' layout has."""
_TRANSFORMER_LAYER = re.compile(r"\.?(?:[0-9]\.)?transformer_blocks\.\*\.((?:attn[12]|ff)(?:\.[\w.]+)?)\.?")


def explain_colons(rule: str) -> str:
    """Say what was meant by a rule that has not two or three colons."""
    if re.fullmatch(r"[0-9]+", rule):
        return "; if this is a ratio, use a decimal point, as in 0.5"
    if ";" in rule or "|" in rule:
        return f'; rules are separated by commas or line ends, not by "{";" if ";" in rule else "|"}"'
    for marks in ((":",), ("::",)):
        whole = rule.replace("=", marks[0])
        if whole != rule and _is_rule(whole):
            return f'; a ratio follows a colon: "{whole}"'
    colons = rule.count(":")
    if colons > 3:
        return _without_separator(rule)
    return _with_one_colon(rule) if colons == 1 else _without_colons(rule)


def explain_block(word: str, rule: str) -> str:
    """Say what was meant by a word on the block side that is no block.

    Args:
        word: The word.
        rule: The rule or target that it stands in.
    """
    if is_of_diffusers(word):
        return OF_DIFFUSERS
    if ":" not in rule and ";" in word:
        return '; targets are separated by commas or line ends, not by ";"'
    if word.lower() in (LORA, LORA.strip("."), "loras"):
        return '; a LoRA is named in one word, as in "lora.detail OUT03::0.5"'
    return _elements_on_block_side(word, rule) or _with_number(word, rule) or suggest_blocks(word)


def explain_part(part: str) -> str:
    """Say what was meant by a part that no element's name can have."""
    if part[0] in "!-^~":
        rest = part.lstrip("!-^~")
        return f'; all elements but these are "{NOT} {rest}"' if rest else f"; all but some are {NOT} and their names"
    if not part.strip("*%?."):
        return f"; for every element, write {ALL}, or nothing between the colons"
    plain = part.strip("\"'`()[]{}<>")
    if plain and plain != part and _is_rule(f":{plain}:1"):
        return f'; write "{plain}"'
    if layer := _TRANSFORMER_LAYER.fullmatch(part):
        return f'; a part may stand anywhere in a name, so "{layer[1]}" is enough'
    if re.search(r"[*%?]", part):
        pieces = [piece for piece in re.split(r"[*%?]+", part) if piece.strip(".")]
        enough = f', so "{pieces[0]}" is enough' if len(pieces) == 1 and _is_rule(f":{pieces[0]}:1") else ""
        return f'; a part may stand anywhere in a name{enough}, and "{re.findall("[*%?]", part)[0]}" is not needed'
    pieces = [piece for piece in re.split(r"[|+&/;\\]+", part) if piece]
    if len(pieces) > 1 and _is_rule(f":{' '.join(pieces)}:1"):
        return f'; several parts have spaces between: "{" ".join(pieces)}"'
    return ""


def explain_ratio(text: str) -> str:
    """Say what was meant by a ratio that is no number, as the end of a sentence."""
    plain = text.strip("\"'`()[]{}<>")
    if plain != text and parse_ratio(plain) is not None:
        return f"; write {plain}"
    if percent := re.fullmatch(r"([+-]?[0-9.]+)\s*%", text):
        number = parse_ratio(percent[1])
        return "" if number is None or math.isinf(number) else f"; {text} is written {format_ratio(number / 100)}"
    if fraction := re.fullmatch(r"([0-9]{1,15})\s*/\s*([1-9][0-9]{0,14})", text):
        return f"; {text} is written {format_ratio(int(fraction[1]) / int(fraction[2]))}"
    if re.fullmatch(r"[+-]?[0-9]+[_,;'][0-9]+", text):
        return f"; if a decimal point was meant, write {re.sub(r'[_,;]|' + chr(39), '.', text)}"
    if re.fullmatch(r"[RUX](?:\(.*)?", text):
        return "; R, U and X are supermerger's random ratios, which this program does not draw"
    if re.search(r"[0-9]\s+[A-Za-z:]", text):
        return "; rules are separated by commas or line ends"
    if ";" in text:
        return '; rules are separated by commas or line ends, not by ";"'
    return ""


def _is_rule(text: str) -> bool:
    return Reader().rule(text) is not None


def _without_separator(rule: str) -> str:
    """Read rules with nothing but spaces between."""
    rules = re.split(r"(?<=[0-9.])\s+(?=[A-Za-z:])", rule)
    if len(rules) > 1 and all(map(_is_rule, rules)):
        return f'; rules are separated by commas or line ends: "{", ".join(rules)}"'
    return ""


def _with_one_colon(rule: str) -> str:
    left, right = (field.strip() for field in rule.split(":"))
    words = left.split()
    if parse_ratio(right) is None:
        if _is_rule(f"{left}:{right}:1"):
            return f'; the ratio is missing, as in "{left}:{right}:0.5"'
        return explain_ratio(right)
    if _is_rule(f"{left}::{right}"):
        return f'; a ratio for whole blocks is written with two colons: "{left}::{right}"'
    for count in range(1, len(words)):  # OUT05 attn2:0.5
        whole = f"{' '.join(words[:count])}:{' '.join(words[count:])}:{right}"
        if _is_rule(whole) and not any(map(looks_like_block, words[count:])):
            return f'; a colon stands between blocks and elements: "{whole}"'
    if len(words) == 1 and not looks_like_block(left):
        elements = (sides_of_key(left) or [f":{left}"])[-1]
        if _is_rule(f"{elements}:{right}"):
            return f'; for elements, write "{elements}:{right}"'
    meant = meant_blocks(left)
    if meant and _is_rule(f"{meant}::{right}"):
        return f'; a ratio for whole blocks is written with two colons: "{meant}::{right}"'
    return "; a ratio for whole blocks is written with two colons, as in OUT05::1"


def _without_colons(rule: str) -> str:
    target, rest = split_target(rule)
    *words, ratio = rest.split() or [""]
    if words and parse_ratio(ratio) is not None:
        count = next((n for n, word in enumerate(words) if normalise_block(word) is None), len(words))
        blocks = " ".join(filter(None, (target, *words[:count])))
        whole = f"{blocks}:{' '.join(words[count:])}:{ratio}"
        if _is_rule(whole) and not any(map(looks_like_block, words[count:])):
            return f'; colons stand between: "{whole}"'
    return ""


def _elements_on_block_side(word: str, rule: str) -> str:
    target, rest = split_target(rule)
    fields, owner = [field.strip() for field in rest.split(":")], f"{target} " if target else ""
    sides = sides_of_key(word)
    if not sides:
        return ""
    if ":" not in rule:
        return f'; elements follow a colon, as in "OUT05:{word}", or ":{word}" for every block'
    elements = sides[-1]
    if elements.endswith(":"):
        return f'; did you mean "{elements[:-1]}"?'
    if len(fields) > 2 and fields[1] and _is_rule(":".join((fields[1], fields[0], *fields[2:]))):
        return f'; blocks stand first: "{owner}{":".join((fields[1], fields[0], *fields[2:]))}"'
    whole = owner + ":".join((elements, *fields[2:]))
    if fields[0] == word and not any(fields[1:2]):
        return f'; elements stand after the first colon: "{whole}"'
    return "; elements stand after the first colon"


def _with_number(word: str, rule: str) -> str:
    """Join IN 03, and say how a range is written whose ends are apart."""
    words = rule.split(":")[0].split()
    for first, second in pairwise(words):
        name = normalise_block(first + second) if second.isdecimal() else None
        if word in (first, second) and name is not None and normalise_block(first) is None:
            return f'; did you mean "{name}"?'
    return ""
