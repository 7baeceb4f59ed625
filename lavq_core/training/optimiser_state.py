"""An optimiser's whole state as named tensors: what a site keeps on its disk from one round to the next.

Parameters go by their number, since an optimiser knows no names and some of what it trains is in no module. What
travels instead, AdamW's two moments by the names of the weights, is in ``local_steps``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moments_of(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimiser's state to named tensors, ``"3.exp_avg"`` for the fourth parameter, on the CPU."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(v).detach().cpu() for i, kept in state.items() for key, v in kept.items()}


def restore_moments(optimiser: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """Load what ``moments_of`` gave; without any, the optimiser stays as it is."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
