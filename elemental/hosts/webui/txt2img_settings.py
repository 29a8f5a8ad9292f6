"""What the txt2img tab says: a value that goes along with a job, and plain data that the record of a run keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules import scripts, shared

from ...errors import HostError
from .loading import CHECKPOINT_OPTION

HOST = "webui"
"""What a record calls the host that its settings are of."""

_STYLES = "txt2img_styles"
_DEFAULT = {"default": True}
_CODE = "Custom code"
"""The script of the WebUI that runs what is typed into it; it is in the list with ``--allow-code`` alone."""


@dataclass(frozen=True)
class TabInput:
    """An input of the Generate button.

    Attributes:
        name: Its name in records: the script that it belongs to, and its id or label.
        script: The file of that script; empty for an input of the WebUI itself.
        label: What messages call it.
        component: The component.
    """

    name: str
    script: str
    label: str
    component: Any


def name_inputs(components: Sequence[Any]) -> list[TabInput]:
    """Name the inputs of the Generate button; what has the same name as an earlier one is numbered."""
    seen: dict[str, int] = {}
    inputs = []
    for component in components:
        script = str(getattr(component, "custom_script_source", None) or "")
        elem_id = getattr(component, "elem_id", None)
        label = str(getattr(component, "label", None) or elem_id or type(component).__name__)
        own = str(elem_id or label)
        name = f"{script}/{own}" if script else own
        seen[name] = seen.get(name, 0) + 1
        inputs.append(TabInput(name if seen[name] == 1 else f"{name}#{seen[name]}", script, label, component))
    return inputs


@dataclass(frozen=True)
class Txt2imgSettings:
    """The txt2img tab at one moment.

    Attributes:
        values: The values of the inputs of the Generate button, without the first, which names the task.
        inputs: These inputs.
        notes: What to tell the user about them.
    """

    values: tuple[Any, ...]
    inputs: tuple[TabInput, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give them as plain data, by the names of the inputs; inputs of scripts that are not chosen are left out.

        Raises:
            HostError: A value is no plain data, such as an image in a script, or the script that is chosen runs code;
                the message names the script.
        """
        _chosen_script(self.inputs, self.values)
        idle = _idle_inputs(self.inputs, self.values)
        kept = {
            entry.name: _kept_value(entry, value)
            for index, (entry, value) in enumerate(zip(self.inputs, self.values, strict=True))
            if index not in idle
        }
        return {"host": HOST, "inputs": kept, "styles": _styles(kept.get(_STYLES)), "options": _options()}


def read_settings(data: Mapping[str, Any], inputs: Sequence[TabInput]) -> Txt2imgSettings:
    """Read settings back from plain data.

    Args:
        data: What :meth:`Txt2imgSettings.to_dict` gave.
        inputs: The inputs of the Generate button now.

    Raises:
        HostError: They are damaged or another host's, they would run code that they hold, or something that they name
            is gone or is not what it was.
    """
    recorded = data.get("inputs")
    if data.get("host") != HOST or not isinstance(recorded, dict):
        raise HostError("The settings of this run are not those of a WebUI; start a new run.")
    if not inputs:
        raise HostError("The fields of the txt2img tab were not found; this version of the WebUI is not supported.")
    if not _is_well_formed(data, inputs):
        raise HostError("The settings of this run are damaged; start a new run.")
    problems = [*_describe_gone(recorded, inputs), *_describe_changed(data)]
    if problems:
        raise HostError("\n".join(["This run cannot be resumed as it began:", *problems]))
    values = [
        _read_value(entry, recorded[entry.name]) if entry.name in recorded else _default(entry.component)
        for entry in inputs
    ]
    script = _chosen_script(inputs, values)
    notes = [f'Resumed with the script "{script}" of the txt2img tab.'] if script else []
    return Txt2imgSettings(tuple(values), tuple(inputs), (*notes, *_describe_new(recorded, inputs, values)))


def _is_well_formed(data: Mapping[str, Any], inputs: Sequence[TabInput]) -> bool:
    """Tell whether settings have the form that :meth:`Txt2imgSettings.to_dict` gives them."""
    recorded, styles, options = data["inputs"], data.get("styles", {}), data.get("options", {})
    by_index = {entry.name for entry in inputs if getattr(entry.component, "type", None) == "index"}
    return (
        isinstance(options, dict)
        and isinstance(styles, dict)
        and all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in styles.values())
        and all(_is_kept_value(kept, by_index=name in by_index) for name, kept in recorded.items())
    )


def _is_kept_value(kept: Any, *, by_index: bool) -> bool:
    """Tell whether :func:`_kept_value` may have given this: a choice of a list by its name, never by its number."""
    if isinstance(kept, dict):
        return kept == _DEFAULT or "choice" in kept or ("value" in kept and not by_index)
    return not by_index or kept is None or isinstance(kept, list)


def _chosen_script(inputs: Sequence[TabInput], values: Sequence[Any]) -> str:
    """Name the script that is chosen in the list of scripts; empty if there is none.

    Raises:
        HostError: It runs code that the record would hold.
    """
    chooser = _find_chooser(inputs)
    if chooser is None or not isinstance(values[chooser], int) or values[chooser] == 0:
        return ""
    script = str(_choices(inputs[chooser].component)[values[chooser]])
    if script == _CODE:
        raise HostError(
            f'A run cannot use the script "{_CODE}": records of runs are files that are shared, and code in them is '
            "never run."
        )
    return script


def _find_chooser(inputs: Sequence[TabInput]) -> int | None:
    """Give the place of the list of scripts."""
    first = scripts.scripts_txt2img.inputs[0]
    return next((at for at, entry in enumerate(inputs) if entry.component is first), None)


def _idle_inputs(inputs: Sequence[TabInput], values: Sequence[Any]) -> Collection[int]:
    """Give the places of the inputs of scripts that are not chosen in the list of scripts."""
    runner = scripts.scripts_txt2img
    chooser = _find_chooser(inputs)
    if chooser is None:
        return ()
    chosen = values[chooser] or 0
    others = (script for number, script in enumerate(runner.selectable_scripts, 1) if number != chosen)
    return {chooser + at for script in others for at in range(script.args_from, script.args_to)}


def _kept_value(entry: TabInput, value: Any) -> Any:
    """Give what a record keeps of a value.

    Raises:
        HostError: It is no plain data.
    """
    if getattr(entry.component, "type", None) == "index" and isinstance(value, int):
        return {"choice": _choices(entry.component)[value]}  # the number is another one when scripts come or go
    if _is_plain(value):
        return {"value": value} if isinstance(value, dict) else value
    if getattr(value, "enabled", None) is False or _is_same(value, getattr(entry.component, "value", None)):
        return _DEFAULT
    place = f"The script {entry.script}" if entry.script else "The WebUI"
    raise HostError(
        f'{place} has a value in the txt2img tab, "{entry.label}", that the record of a run cannot keep, such as an '
        "image or a file: this run could not be resumed as it began. Switch the script off, or empty that field."
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _is_same(value: Any, other: Any) -> bool:
    """Tell whether two objects are certainly equal."""
    try:
        return bool(value == other) or (type(value) is type(other) and bool(vars(value) == vars(other)))
    except Exception:  # arrays have no one answer
        return False


def _read_value(entry: TabInput, kept: Any) -> Any:
    if kept == _DEFAULT:
        return _default(entry.component)
    if isinstance(kept, dict) and "choice" in kept:
        return _choices(entry.component).index(kept["choice"])
    return kept["value"] if isinstance(kept, dict) else kept


def _default(component: Any) -> Any:
    """Give what the Generate button gets of an input that nobody has touched."""
    value = getattr(component, "value", None)
    if getattr(component, "type", None) == "index":
        return _choices(component).index(value) if value in _choices(component) else None
    return copy.deepcopy(value)


def _choices(component: Any) -> list[Any]:
    """List the choices of a component, which later versions of gradio keep with their labels."""
    return [choice[-1] if isinstance(choice, (tuple, list)) else choice for choice in component.choices]


def _describe_gone(recorded: Mapping[str, Any], inputs: Sequence[TabInput]) -> Iterator[str]:
    """Say which scripts, choices or fields of a record are gone."""
    now = {entry.name: entry for entry in inputs}
    there = {entry.script for entry in inputs}
    gone = [name for name in recorded if name not in now]
    gone_scripts = dict.fromkeys(name.partition("/")[0] for name in gone if "/" in name)
    for script in gone_scripts:
        verb = "has other fields now" if script in there else "is gone; install or switch on what brought it"
        yield f"the script {script} {verb}."
    for name in gone:
        if "/" not in name:
            yield f'the field "{name}" of the txt2img tab is gone.'
    chosen = {name: kept["choice"] for name, kept in recorded.items() if isinstance(kept, dict) and "choice" in kept}
    for name, choice in chosen.items():
        if name in now and choice not in _choices(now[name].component):
            yield f'"{choice}" is gone from the list "{now[name].label}" of the txt2img tab.'


def _describe_new(recorded: Mapping[str, Any], inputs: Sequence[TabInput], values: Sequence[Any]) -> Iterator[str]:
    """Say which scripts and fields a record does not know; those of scripts that are not chosen do not count."""
    idle = _idle_inputs(inputs, values)
    new = [entry for at, entry in enumerate(inputs) if entry.name not in recorded and at not in idle]
    names = dict.fromkeys(f"the script {entry.script}" if entry.script else f'"{entry.label}"' for entry in new)
    if names:
        yield f"New in the txt2img tab since this run began, and used as they are at first: {', '.join(names)}."


def _styles(names: Any) -> dict[str, list[str]]:
    """Give the texts of styles, which can be edited, by their names."""
    known = getattr(getattr(shared, "prompt_styles", None), "styles", {})
    chosen = names if isinstance(names, (list, tuple)) else []
    return {name: [known[name].prompt or "", known[name].negative_prompt or ""] for name in chosen if name in known}


def _options() -> dict[str, Any]:
    """Give those of the WebUI's settings that it names in infotexts, since images differ with them."""
    options = {}
    for name, info in shared.opts.data_labels.items():
        value = shared.opts.data.get(name, getattr(info, "default", None))
        if getattr(info, "infotext", None) and name != CHECKPOINT_OPTION and _is_plain(value):
            options[name] = value
    return options


def _describe_changed(data: Mapping[str, Any]) -> Iterator[str]:
    """Say which styles and settings of the WebUI are not what they were."""
    styles, options = data.get("styles") or {}, data.get("options") or {}
    now = _styles(list(styles))
    for name, texts in styles.items():
        if name not in now:
            yield f'the style "{name}" is gone.'
        elif now[name] != list(texts):
            yield f'the style "{name}" has another text now; it was: {" / ".join(filter(None, texts))}'
    current = _options()
    for name, value in options.items():
        if name in current and current[name] != value:
            label = getattr(shared.opts.data_labels[name], "label", None) or name
            yield f'the setting "{label}" of the WebUI was {value} and is {current[name]}; set it back.'
