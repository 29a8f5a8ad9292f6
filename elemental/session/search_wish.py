"""What a button of the Search panel asks for, as a page sends it."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import ImageError
from ..searches.steering import BEST


class Wish(NamedTuple):
    """What a button of the panel asks for: its name, of which search and round, and what is picked, the best first."""

    act: str
    key: str
    round: int
    order: tuple[int, ...]

    @classmethod
    def read(cls, text: str) -> Wish:
        """Read what a page has sent.

        Raises:
            ImageError: No page sends such a thing.
        """
        parts = text.split(" ")
        try:
            return cls(parts[0], parts[1], int(parts[2]), tuple(map(int, filter(None, parts[3:]))))
        except (IndexError, ValueError) as exc:
            raise ImageError("This request of the page cannot be read; load the page anew.") from exc

    @property
    def used(self) -> int:
        """The candidate that goes into the form: of "use" that which is picked first; or else the best so far."""
        return self.order[0] if self.act == "use" and self.order else BEST


def say_used(wish: str) -> str:
    """Say which candidate is in the form now, and how its image is made.

    Args:
        wish: What the page has sent.

    Raises:
        ImageError: No page sends such a thing.
    """
    asked = Wish.read(wish)
    what = f"Candidate {asked.used} of round {asked.round}" if asked.used != BEST else "The best so far of the search"
    return f"{what} is in the form now. Merge & Generate makes its image."
