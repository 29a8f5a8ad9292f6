"""What images of each model look like, to see that an image is what its infotext says."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elemental.images.files import read_image, read_texts


@dataclass(frozen=True)
class Look:
    """What an image shows besides its model.

    Attributes:
        prompt: Its prompt, maybe with a LoRA.
        clip_skip: The setting of this name.
        known: Whether images of it are compared: a second model during an image makes any number of looks.
    """

    prompt: str
    clip_skip: int = 0
    known: bool = True


def look_of(prompt: str, fields: Mapping[str, Any]) -> Look:
    """Tell what an image of a request shows."""
    skip = fields.get("override_settings", {}).get("clip_skip", 0)
    return Look(prompt, skip, known=not fields.get("enable_hr"))


@dataclass
class KnownImages:
    """Images by what they show, with either VAE.

    A choice of the user's during their own image of a checkpoint takes effect during that image in all of these hosts,
    so such an image may show any checkpoint. An image of a merge must show that merge, and no other one may.

    Attributes:
        wrong: What was seen that must not be.
        compared: How many images were compared.
        merges: How many of them were of merges.
    """

    wrong: list[str]
    compared: int = 0
    merges: int = 0
    _images: dict[tuple[str, str, Look], set[str]] = field(default_factory=lambda: defaultdict(set))

    def learn(self, made: Any, look: Look) -> None:
        """Remember what images look like when nobody disturbs them."""
        for image, infotext in made.all:
            self._images[merge_of(infotext), seed_of(infotext), look].add(image)

    def check(self, made: Any, look: Look) -> None:
        """Compare images with what their infotexts say."""
        for image, infotext in made.all if look.known else ():
            self._compare(image, infotext, look)

    def check_files(self, paths: Iterable[Path], look: Look) -> None:
        """Compare a job's images, but for merges that were not learnt, such as those of plots."""
        for path in paths:
            infotext = read_texts(path)["parameters"]
            if (merge_of(infotext), seed_of(infotext), look) in self._images:
                self._compare(hashlib.sha256(read_image(path).tobytes()).hexdigest(), infotext, look)

    def _compare(self, image: str, infotext: str, look: Look) -> None:
        merge, seed = merge_of(infotext), seed_of(infotext)
        self.compared += 1
        self.merges += merge != PLAIN
        if image not in self._images[merge, seed, look]:
            names = [names for names, found in self._images.items() if image in found]
            self.wrong.append(f"an image of {merge}, {look}, shows {names or 'what was never seen'}")


PLAIN = "a checkpoint"


def merge_of(infotext: str) -> str:
    """Tell which merge an infotext names."""
    merge = re.search(r'Elemental: ("(?:\\.|[^"\\])*"|[^,]*)', infotext)
    return merge[1] if merge else PLAIN


def seed_of(infotext: str) -> str:
    seed = re.search(r"\bSeed: (\d+)", infotext)
    return seed[1] if seed else ""
