"""What a privacy budget would buy a site of some size: what would be released, and how much of it would be noise."""

from __future__ import annotations

import math

from client.data_card import Section
from lavq_core.data.labels import SUPERCLASSES

TITLE = "What a privacy budget would buy"
_PRESETS = ("eps8", "eps3", "eps1")
_DELTA = 1e-5  # of the presets
_NOTE = (
    "How much of what this site would send in a whole training with privacy=eps8, eps3 or eps1 would be noise, by the "
    "plan that a run follows, with its {patients:,} training patients (a patient is the unit, delta {delta:g}). The "
    "smaller epsilon, the less can be told about one patient, and the more noise. Patients: how far their released "
    "number lies from the true one, 95 % of the time. The other columns are shares of the longest signal that "
    "{patients:,} patients can give; real ones are shorter. Mean description: of the patients' ECGs, {size} numbers. "
    "One step, all steps: the gradients that the detector learns from, {values} numbers, a single one and the mean of "
    "all {steps}. The shares are of all numbers together; in any one direction a gradient's noise is {root:.0f} times "
    "less. With twice the patients they are half as large, and averaging over hospitals lowers them again."
)
_HEAD = ("preset", "epsilon", "patients", "noise in the mean description", "in one step", "in all steps")


def budget_section(patients: int) -> Section:
    """Reckon the privacy presets for a site of so many training patients; nothing is read or released for it."""
    from lavq_core.config import compose
    from lavq_core.privacy.plan import make_plan, planned_epsilon
    from lavq_core.signals.description import SIZE

    if patients < 1:
        return Section(TITLE, "No patient is in the folds that are trained on (1 to 8).", (), [])
    values = len(SUPERCLASSES) * (SIZE + 1)  # of a gradient
    delta, rows, steps = min(_DELTA, 10.0 ** math.floor(-math.log10(10 * patients))), [], 0
    for preset in _PRESETS:
        config = compose([f"privacy={preset}", f"privacy.delta={delta:g}"])
        rounds = config.federation.rounds
        plan = make_plan(config, rounds)
        steps = plan.detector.steps * (rounds - 1)
        # Both the noise in each number of a sum and the longest sum are multiples of the clipping norm, which cancels.
        centre = plan.centre.noise_multiplier * math.sqrt(SIZE) / patients
        step = plan.detector.noise_multiplier * math.sqrt(values) / patients
        released = f"\u00b1 {1.96 * plan.size.noise_multiplier:.0f}"
        shares = [f"{100 * share:.1f} %" for share in (centre, step, step / math.sqrt(steps))]
        rows.append((preset, f"{planned_epsilon(config, rounds):.2f}", released, *shares))
    note = _NOTE.format(patients=patients, delta=delta, steps=steps, size=SIZE, values=values, root=math.sqrt(values))
    if delta < _DELTA:
        note += f" So many patients ask for privacy.delta={delta:g}; the presets' own, {_DELTA:g}, is refused here."
    return Section(TITLE, note, _HEAD, rows)
