"""The host's live model: the merges that it holds, whatever it is made of."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import HostError
from ..base import NO_FIELDS, CheckpointRef, Claim
from .images import LABEL
from .parts import Layout, Loader

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Description:
    """How the merge in the model is described in images.

    Attributes:
        model: Names the model in the infotext.
        fields: Additional texts for the image files.
    """

    model: Mapping[str, str]
    fields: Mapping[str, str]


class WebUIModel:
    """A model of the host that holds a checkpoint.

    Args:
        layout: What the model is made of.
        loader: How the host loads models.
        checkpoint: The checkpoint that is loaded into it.

    Attributes:
        checkpoint: The checkpoint whose tensors are in the model; None once a merge was kept.
        opened: The checkpoint that was loaded.
        kept: The label of the merge that was kept in it.
        description: The last description of a merge in it; None if there is no merge.
    """

    def __init__(self, layout: Layout, loader: Loader, checkpoint: CheckpointRef) -> None:
        self.checkpoint: CheckpointRef | None = checkpoint
        self.opened = checkpoint
        self.kept: str | None = None
        self.description: Description | None = None
        self._layout = layout
        self._loader = loader
        self._claim = Claim()
        self._written = False

    @property
    def module(self) -> Any:
        """The host's model; None once the host has freed it."""
        return self._layout.module

    @property
    def left_out(self) -> str:
        """What of the checkpoint is not in use, and not merged, as a sentence for the user; empty if there is none."""
        return self._layout.left_out

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors in use by their keys in the file; LoRAs are taken out of them first.

        Raises:
            HostError: Something else was loaded over them, the host has moved them to no device, or they cannot be
                written to.
        """
        if self.replaced():
            raise HostError("The WebUI has loaded another model in place of this one; merge again.")
        tensors = self._layout.tensors()
        if any(part.is_meta for parts in tensors.values() for part in parts):
            raise HostError("The model is on no device; choose the checkpoint in the WebUI's list again.")
        return tensors

    def changed(self, keys: Collection[str]) -> None:
        """Drop what the host has computed from tensors.

        Raises:
            HostError: The host cannot use the new numbers.
        """
        self._written = True
        self._layout.changed(keys)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the model for one merge; afterwards it counts as the checkpoint again, unless the merge was kept.

        Raises:
            HostError: Another merge is using it.
        """
        with self._claim():
            self._written = False
            try:
                yield
            finally:
                if self.kept is None:
                    self._end_merge()

    def keep(self, label: str) -> None:
        """Remember the label of the merge; the model is no longer that of its file."""
        self.kept = label
        self.checkpoint = None
        self.description = Description({LABEL: label}, {})  # its images must not be named after the checkpoint

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Remember what is in the model, for images that the user makes in the host's own tabs."""
        if model or not self.holds_merge:
            self.description = Description(dict(model), dict(fields)) if model else None

    def replaced(self) -> bool:
        """Tell whether the host has loaded something over these tensors, or uses another model."""
        module = self.module
        return self.overwritten or module is None or self._loader.model() is not module

    @property
    def overwritten(self) -> bool:
        """Whether something was loaded over these tensors since they were opened."""
        return self._layout.overwritten

    @property
    def holds_merge(self) -> bool:
        """Whether a merge was kept in the model, and is still there."""
        return self.kept is not None and not self.overwritten

    @property
    def differs_from_checkpoint(self) -> bool:
        """Whether the model holds something other than the checkpoint that the host names."""
        return self._layout.overwritten_by_others if self.overwritten else self.holds_merge

    def _end_merge(self) -> None:
        """Restore what the host has computed from the tensors, which hold their original numbers again."""
        self.describe({}, NO_FIELDS)
        self._layout.restored()
        if not self.overwritten and self._written and self.replaced() and self._loader.drop(self.module):
            # The host set this model aside while a merge was in it, and must not use it as the checkpoint later.
            _log.warning("The WebUI's copy of %s in memory holds a merge, and is dropped.", self.opened.title)
