"""How reForge computes images, for steps that are computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from ..webui.traced_patchers import PatchedModel
from ..webui.traced_webui import encode_with_gradients


class ReForgeTracedModel(PatchedModel):
    """A module of reForge, for one image: it encodes prompts as the WebUI does, by networks behind patchers."""

    def _encode(self, texts: Any) -> Any:
        with _copies_for_norms(self._text_networks(self._objects)):
            return encode_with_gradients(self.module, texts)

    def _text_networks(self, objects: Any) -> Sequence[nn.Module]:
        wrappers = [getattr(self.module, name, None) for name in ("conditioner", "cond_stage_model")]
        return [*super()._text_networks(objects), *(each for each in wrappers if isinstance(each, nn.Module))]


@contextmanager
def _copies_for_norms(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Give copies to layer norms, since text encoders write over the tensors that norms need on the way back."""
    with ExitStack() as undo:
        for norm in (module for network in networks for module in network.modules()):
            if isinstance(norm, nn.LayerNorm) and "forward" not in vars(norm):
                vars(norm)["forward"] = _of_copy(norm.forward)
                undo.callback(delattr, norm, "forward")
        yield


def _of_copy(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda given: forward(given.clone())
