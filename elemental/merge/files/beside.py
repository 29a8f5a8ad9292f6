"""Files beside a model that decide how it draws: its configuration, and a VAE that the WebUI loads with it.

The WebUI (version 1.10.1) builds a checkpoint as the ``.yaml`` of the same name beside it says
(``find_checkpoint_config_near_filename`` in modules/sd_models_config.py); the one of a v-prediction model says so. It
draws with the first VAE whose file name begins with the checkpoint's (``find_vae_near_checkpoint`` in
modules/sd_vae.py), unless another VAE is chosen in its settings. So a merge needs the configuration of its model A,
and must not come to lie beside that of another model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import CheckpointError, MergeError
from ...recipe.text_files import encoding_of, read_at_most
from .checkpoint import SUFFIXES

_VAES = (".vae.pt", ".vae.ckpt", ".vae.safetensors")
_LARGEST = 1 << 20
_V_PREDICTION = re.compile(r"""^[^#\n]*\bparameterization["']?\s*:\s*["']?v\b""", re.MULTILINE)
"""How the configuration of a model that predicts v says so."""


def read_config(model: Path) -> bytes | None:
    """Read the configuration beside a model; None if there is none.

    Raises:
        CheckpointError: It cannot be read, or is no configuration.
    """
    config = model.with_suffix(".yaml")
    try:
        if not config.is_file():
            return None
        data = read_at_most(config, _LARGEST)
    except OSError as exc:
        raise CheckpointError(f"Cannot read {config}: {exc.strerror or exc}.") from exc
    if data is None:
        raise CheckpointError(f"{config} is too large for the configuration of a model: rename it.")
    return data


def predicts_v(config: bytes) -> bool:
    """Tell whether the configuration of a model says that it predicts v."""
    return _V_PREDICTION.search(config.decode(encoding_of(config), "replace")) is not None


def vae_remarks(model: Path, target: Path, *, chosen: bool) -> list[str]:
    """Remark on VAEs that the WebUI loads with model A, or would load with the result.

    Args:
        model: The file of model A.
        target: The file of the result.
        chosen: Whether the user chose a file for the VAE of the result.
    """
    remarks = []
    with_a, with_result = _vae_beside(model), _vae_beside(target)
    if with_a is not None and with_a != with_result and not chosen:
        remarks.append(
            f"The WebUI draws {model.name} with {with_a.name}, which is not part of the merge: "
            f'add --vae "{with_a}" to put it into the result.'
        )
    if with_result is not None:
        remarks.append(
            f"The WebUI will draw {target.name} with {with_result.name}, which lies beside it, not with the VAE of "
            "the merge."
        )
    return remarks


def _vae_beside(model: Path) -> Path | None:
    names: list[str] = []
    with suppress(OSError):
        names.extend(path.name for path in model.parent.iterdir())
    found = sorted(name for name in names if name.startswith(model.stem) and name.lower().endswith(_VAES))
    return model.with_name(found[0]) if found else None


@dataclass(frozen=True)
class ConfigCopy:
    """The configuration of model A, on its way beside the result.

    Attributes:
        source: The file beside A; it need not exist.
        target: The file beside the result.
        data: What to write; None if A has no configuration, or the result has the same already.
        present: What is beside the result already.
        link: Where that leads if it is a link, which is replaced: others may use the file that it leads to.
        warning: What is wrong with the file beside the result; empty if nothing is.
    """

    source: Path
    target: Path
    data: bytes | None
    present: bytes | None = None
    link: Path | None = None
    warning: str = ""

    @property
    def note(self) -> str:
        """What was done, in one line; empty if nothing was."""
        return f"{self.source.name} was copied to {self.target.name}: hosts read it to draw." if self.data else ""

    @contextmanager
    def placed(self, *, is_saved: Callable[[], bool]) -> Iterator[None]:
        """Write the file, then save the model in the ``with`` block; if that fails, what was there before is put back.

        It comes first, so that the model is never there without it.

        Args:
            is_saved: Tells whether the model was saved, although an error followed.

        Raises:
            CheckpointError: What is there cannot be read.
            MergeError: The file cannot be written, or was changed by somebody else.
        """
        if self.data is None:
            yield
            return
        if read_config(self.target) != self.present:
            raise MergeError(f"{self.target} changed while the models were merged. Merge again.")
        try:
            _write(self.target, self.data)
            yield
        except BaseException:
            if not is_saved():
                self._put_back()
            raise

    def _put_back(self) -> None:
        with suppress(OSError, MergeError):
            if self.link is not None:
                self.target.unlink(missing_ok=True)
                self.target.symlink_to(self.link)
            elif self.present is not None:
                _write(self.target, self.present)
            elif self.target.read_bytes() == self.data:
                self.target.unlink()


def plan_config(model: Path, target: Path, *, overwrite: bool) -> ConfigCopy:
    """Plan to copy the configuration of model A beside the result.

    Args:
        model: The file of model A.
        target: The file of the result, as hosts will find it: links are not followed.
        overwrite: Whether another configuration may be replaced.

    Raises:
        CheckpointError: A configuration cannot be read.
        MergeError: The result has another configuration, which may not be replaced; or another model of that name is
            there, which would be drawn by it, too.
    """
    source, place = model.with_suffix(".yaml"), target.with_suffix(".yaml")
    wanted, present = read_config(model), read_config(target)
    copy = ConfigCopy(source, place, None if wanted == present else wanted, present, _read_link(place))
    if present not in (None, wanted) and not overwrite:
        differs = "A has none" if wanted is None else f"is not {source.name}"
        raise MergeError(
            f"{place} exists, and {differs}: hosts would draw the result otherwise.\n"
            "Choose another name for the result, remove that file, or overwrite."
        )
    if copy.data is not None:
        _refuse_others(target, place)
    if wanted is None and present is not None:
        stays = f"{place.name} stays beside the result: hosts draw by it, and A has none. Remove it?"
        return replace(copy, warning=stays)
    return copy


def _read_link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:  # no link, or not there
        return None


def _refuse_others(target: Path, place: Path) -> None:
    """Refuse to change how another model draws, whose name differs from the result's in its suffix alone.

    Raises:
        MergeError: There is one.
    """
    others: list[str] = []
    with suppress(OSError):
        others.extend(path.name for path in target.parent.iterdir() if path.suffix.lower() in SUFFIXES)
    for name in others:
        if name != target.name and os.path.normcase(Path(name).stem) == os.path.normcase(target.stem):
            raise MergeError(
                f"{place.name} would be copied from A, and hosts would draw {name} by it, too: choose another name for "
                "the result."
            )


def _write(target: Path, data: bytes) -> None:
    """Write a small file, which appears complete.

    Raises:
        MergeError: It cannot be written.
    """
    import secrets  # takes a while, and planning writes nothing

    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with temporary.open("xb") as file:  # what is there already, a link too, is somebody else's
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise MergeError(f"Cannot write {target}: {exc.strerror or exc}. An existing file is unchanged.") from exc
