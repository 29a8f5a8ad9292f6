"""What a trace asks of a host's model: which of its functions compute an image, and the same again with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

TOKENS, POOLED = "crossattn", "vector"
"""The WebUI's names, for SDXL, of what the text encoders give for each token and for the whole prompt."""

OTHER_UNET = (
    "Effects cannot be estimated while the WebUI uses another U-Net than the checkpoint's. "
    'Set "SD Unet" to None in its settings.'
)

Text = Mapping[str, Tensor]
"""An encoded prompt, or several, by these names."""


class UNetCall(NamedTuple):
    """What the U-Net computed for one prompt at a step; in each tensor the first dimension has length 1.

    Attributes:
        latents: The latents, scaled as the sampler wants it.
        time: The time step.
        conditions: The encoded prompt and whatever else it was given, in the host's nested dictionaries and lists.
        output: What it gave.
        factor: By what its output is multiplied in the guided prediction, which is the sum over the step's calls.
    """

    latents: Tensor
    time: Tensor
    conditions: Any
    output: Tensor
    factor: float = 1.0


class Places(NamedTuple):
    """Where calls are noted: an object and the name of its method.

    Attributes:
        unet: The U-Net.
        texts: What encodes prompts.
        vae: What decodes latents.
    """

    unet: tuple[Any, str]
    texts: tuple[Any, str]
    vae: tuple[Any, str]


class TracedModel(Protocol):
    """A host's model, and how it was set up for one image.

    What is computed is computed within :meth:`as_during_image`.
    """

    @property
    def module(self) -> Any:
        """The host's model."""

    @property
    def takes_first_for_negative(self) -> bool:
        """Whether a step without the negative prompt takes the first part of the prompt for it."""

    def networks(self) -> Sequence[nn.Module]:
        """Give the U-Net, the VAE and the text encoders."""

    def refuse_unfit(self) -> None:
        """Refuse a model that cannot be differentiated.

        Raises:
            HostError: It cannot; the message says what the user can do.
        """

    def places(self) -> Places:
        """Give the methods whose calls are noted."""

    def rows(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> list[UNetCall]:
        """Split the arguments of a call of the U-Net into one call for each prompt, whose output is not known yet."""

    def ordered(self, calls: Sequence[UNetCall]) -> Sequence[UNetCall]:
        """Give the calls of a step in the order of the prompt's parts; the negative prompt's comes last."""

    def begin(self) -> None:
        """Note how the model is set up, as a step begins."""

    def made(self, request: Any) -> None:
        """Note how the model is set up after the image.

        Args:
            request: The host's request of the image.

        Raises:
            HostError: Images that are made in this way cannot be differentiated.
        """

    def is_in_use(self) -> bool:
        """Tell whether this is still the host's model, with what was loaded into it."""

    def as_during_image(self) -> AbstractContextManager[None]:
        """Have the model set up as it was for the image."""

    def ready(self) -> bool:
        """Bring the LoRAs of the image back; if not, they will be in use after a step without gradients.

        Raises:
            HostError: They are not there any more.
        """

    def recomputed(self, *, has_settings: bool) -> AbstractContextManager[None]:
        """Have the U-Net's blocks computed again on the way back, which comes after :meth:`as_during_image`.

        Args:
            has_settings: Whether the image was made with other settings than those of the way back.
        """

    def unet(self, call: UNetCall, conditions: Any) -> Tensor:
        """Call the U-Net again, with other conditions."""

    def encode(self, texts: Any) -> Any:
        """Encode prompts, as the method in :meth:`places` does, with gradients."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, as the method in :meth:`places` was given them, to channel values from -1 to 1."""

    def text_of(self, conditions: Any) -> Text:
        """Give what the text encoders gave of a U-Net's conditions; tensors of shape (1, ...)."""

    def with_text(self, conditions: Any, text: Text) -> Any:
        """Give conditions with other encoded prompts."""
