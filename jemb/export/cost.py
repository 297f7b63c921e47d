"""What the training took: hours from the run's own records; energy and emissions only where figures were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jemb.lineage import Stage

NO_FIGURE = (
    "Energy was not measured. kWh = hours × mean power of all devices in W / 1000, and grams of CO2-equivalent = kWh × "
    "the grid's g/kWh; `jemb export` puts both here when it is told `power_watts` and `carbon_intensity`."
)
FIGURE = (
    "Energy is hours × mean power, emissions are energy × the grid's intensity; power and intensity are what the "
    "exporter stated, not measurements, and taken to be the same in all stages. Not in the hours: work lost to killed "
    "starts, preparation of the data, evaluation outside of training."
)


def training_hours(stages: Sequence[Stage]) -> float | None:
    """Wall time of all stages; None where the time of one of them is not known."""
    seconds: list[float | None] = [stage.get("seconds") for stage in stages]
    known = [value for value in seconds if value is not None]
    return sum(known) / 3600 if len(known) == len(seconds) else None


def hardware(stages: Sequence[Stage]) -> str:
    """What trained: `4 × NVIDIA H100`, each kind once."""
    found = [
        f"{start.get('world_size', '?')} × {start.get('hardware') or start.get('device', '?')}"
        for stage in stages
        for start in stage.get("starts", [])
    ]
    return "; ".join(dict.fromkeys(found)) or "not recorded"


def emissions(stages: Sequence[Stage], power_watts: float | None, carbon_intensity: float | None) -> float | None:
    """Grams of CO2-equivalent, where hours, power and intensity are known."""
    hours = training_hours(stages)
    if hours is None or not power_watts or not carbon_intensity:
        return None
    return hours * power_watts / 1000 * carbon_intensity


def cost_rows(stages: Sequence[Stage], power_watts: float | None, carbon_intensity: float | None) -> list[Any]:
    """(what, how much) for the card."""
    hours = training_hours(stages)
    rows = [
        ("hardware (processes × device)", hardware(stages)),
        ("wall time of training", "not recorded" if hours is None else _duration(hours)),
    ]
    if hours is not None and power_watts:
        rows.append(("energy, at the stated power", f"{hours * power_watts / 1000:.3g} kWh at {power_watts:g} W"))
    if (grams := emissions(stages, power_watts, carbon_intensity)) is not None:
        rows.append(("emissions, at the stated intensity", f"{grams:.3g} g CO2eq at {carbon_intensity:g} g/kWh"))
    return rows


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours * 60 >= 1 else f"{3600 * hours:.0f} s"
