"""Learning-rate schedule: linear warm-up, then cosine decay to zero (DROR, arXiv:2212.06202)."""

import math

Length = int | float


def warmup_cosine(
    done: Length, *, warmup: Length, total: Length = 1.0, ramp_offset: Length = 0.0, peak: float = 1.0
) -> float:
    """Learning rate after `done` of `total`.

    A function of the progress alone, so that no state of a schedule is saved. Where the warm-up is longer than the run,
    the run is all warm-up.

    Args:
        done: steps, or the share of the run.
        warmup: length of the ramp, in the unit of `done`.
        total: length of the run, in the unit of `done`; longer than `warmup`, unless `done` never gets there.
        ramp_offset: added to `done` on the ramp; 1 counts the step that is about to be made, so that step 0 learns.
        peak: the rate at the end of the ramp.
    """
    if done < warmup:
        return peak * (done + ramp_offset) / warmup
    share = (done - warmup) / (total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
