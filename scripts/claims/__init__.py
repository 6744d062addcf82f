"""The claims of the paper, one experiment each: what is measured, which inequality must hold, and a verdict.

Cai, Zhang and Wang, "Robust weight signatures: gaining robustness as easily as patching weights?" (ICML 2023) train a
standard model and robust ones from the same start, and take for a signature what tells their first layers apart. What
they say of it stands here as inequalities, written down before anything was measured; `reproduce.py` measures and
judges.

An experiment gives jobs (what tells a row from others, and what fills it), so that an interrupted one goes on. Most
rows are accuracies in [0, 1]: {"study", "model", "ta": by corruption, "ra": by corruption}, each under its own.
"""

from claims import (
    adjustable,
    composable,
    consistent,
    discriminative,
    light,
    main_table,
    projection,
    recovery,
    shallow,
    shifts,
    updated,
)
from claims.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "main": main_table.EXPERIMENT,
    "shallow": shallow.EXPERIMENT,
    "discriminative": discriminative.EXPERIMENT,
    "consistent": consistent.EXPERIMENT,
    "light": light.EXPERIMENT,
    "adjustable": adjustable.EXPERIMENT,
    "composable": composable.EXPERIMENT,
    "updated": updated.EXPERIMENT,
    "shifts": shifts.EXPERIMENT,
    "projection": projection.EXPERIMENT,
    "recovery": recovery.EXPERIMENT,
}
