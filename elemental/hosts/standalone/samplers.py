"""Samplers, as schedulers of diffusers, by their usual names in infotexts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
"""The noise schedule that SD 1.x, SD 2.x and SDXL were trained with; from v1-inference.yaml."""

SAMPLERS: dict[str, Callable[..., Any]] = {
    "Euler": EulerDiscreteScheduler,
    "Euler a": EulerAncestralDiscreteScheduler,
    "DPM++ 2M Karras": DPMSolverMultistepScheduler,
    "DDIM": DDIMScheduler,
    "UniPC": UniPCMultistepScheduler,
}
"""Schedulers by name.

Euler, and the steps that Karras stands for: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models", algorithm 2 without noise and equation 5. Euler a: ``sample_euler_ancestral`` of
github.com/crowsonkb/k-diffusion. DPM++ 2M: Lu et al. 2022, "DPM-Solver++", algorithm 2. DDIM: Song et al. 2020,
"Denoising Diffusion Implicit Models", equation 12. UniPC: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector
Framework for Fast Sampling of Diffusion Models".
"""

_OPTIONS: dict[str, dict[str, Any]] = {
    "Euler": {"timestep_spacing": "linspace"},
    "Euler a": {"timestep_spacing": "linspace"},
    "DPM++ 2M Karras": {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++", "solver_order": 2},
    "DDIM": {"clip_sample": False, "set_alpha_to_one": False},
    "UniPC": {"timestep_spacing": "linspace"},
}


def make_sampler(name: str, *, v_prediction: bool, zero_snr: bool) -> Any:
    """Make a scheduler of diffusers; each run of the pipeline needs a new one.

    Args:
        name: One of :data:`SAMPLERS`.
        v_prediction: Whether the model predicts v (Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of
            Diffusion Models", section 4) rather than the noise.
        zero_snr: Whether its noise schedule ends at a signal-to-noise ratio of zero (Lin et al. 2023, "Common Diffusion
            Noise Schedules and Sample Steps Are Flawed", algorithm 1).
    """
    options = _NOISE | _OPTIONS[name] | {"prediction_type": "v_prediction" if v_prediction else "epsilon"}
    return SAMPLERS[name](**options, rescale_betas_zero_snr=zero_snr)
