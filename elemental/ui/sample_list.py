"""The list of samples of a panel: a choice fills that panel and the merge that it is about, and explains both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from ..errors import ElementalError
from ..runs.sample_file import Sample
from ..session.sample_values import describe_setting, sample_values
from .answer import Answer, Updates
from .gradio_compat import on, update
from .page_memory import PageMemory


def wire_sample(chosen: Any, samples: Mapping[str, Sample], memory: PageMemory, answer: Answer) -> None:
    """Make a list of samples work.

    Args:
        chosen: The list.
        samples: By their titles in it.
        memory: Fills the fields.
        answer: Where a sample is explained.
    """

    def load(title: str | None) -> Updates:
        sample = samples.get(title or "")
        if sample is None:  # the list is emptied when its choice was loaded, so that the same one can be chosen again
            return {}
        filled = memory.fill(sample_values(sample))
        return {**filled, chosen: update(value=None), **answer.give(explain_sample(sample))}

    on(chosen, "change", load, [chosen], [chosen, *memory.outputs, *answer.outputs])


def explain_sample(sample: Sample) -> str:
    """Draw what a sample shows, and what it has set in the merge panel."""
    setting = describe_setting(sample_values(sample))
    return draw_answer(lambda: f"{sample.title}\n{sample.about}\n\nSet in the Merge panel: {setting}.")


def draw_answer(ask: Callable[[], str]) -> str:
    """Draw what a question gives, or why it cannot be answered."""
    try:
        return f'<div class="elemental-message done" role="status"><pre>{escape(ask())}</pre></div>'
    except ElementalError as exc:
        return f'<div class="elemental-message failed" role="alert"><pre>{escape(str(exc))}</pre></div>'
