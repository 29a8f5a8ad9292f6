"""The samples of an estimate in a file, where the same estimate finds them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..effects.samples import Samples, no_samples
from ..effects.samples_file import encode_samples, file_of, read_samples
from ..errors import CheckpointError
from ..images.files import make_folder, write_whole


class KeptSamples:
    """Keeps samples in a file, and finds those that are there.

    Args:
        folder: Its folder; None to keep none.
        origin: What the samples are made from.
        keys: The tensors that they are of.

    Attributes:
        file: The file; None if there is none.
        samples: Those that were found.
    """

    def __init__(self, folder: Path | None, origin: Mapping[str, Any], keys: Sequence[str]) -> None:
        self._origin = origin
        self.samples = no_samples(keys)
        self.file = None if folder is None else file_of(folder, origin)
        if self.file is not None and self.file.is_file():
            with suppress(CheckpointError):  # a damaged file is made anew
                found, _ = read_samples(self.file)
                self.samples = found if found.keys == self.samples.keys else self.samples

    def keep(self, samples: Samples) -> None:
        """Write samples.

        Raises:
            ImageError: They cannot be written.
        """
        if self.file is None or not samples.passes:
            return
        make_folder(self.file.parent)
        write_whole(self.file, encode_samples(samples, self._origin), replace=True)
