"""What no detector can surpass: K still tones of known frequency and unknown phase, against white noise alone.

Each tone gives one squared magnitude, exponential in noise, so their sum is gamma distributed in noise and noncentral
with the tones; the area under the ROC curve of that sum has a closed form.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc
from scipy.stats import poisson

REFERENCE_BAND_HZ = 1000.0


def auc_limit(snr_db: float, n_tones: int, duration_s: float) -> float:
    """Highest possible AUC: 1 - sum_j Poisson(j; rho) I_1/2(K + j, K), rho = signal energy over noise density."""
    rho = 10 ** (snr_db / 10) * REFERENCE_BAND_HZ * duration_s
    j = np.arange(int(rho + 20 * np.sqrt(rho) + 50))
    return float(1 - np.sum(poisson.pmf(j, rho) * betainc(n_tones + j, n_tones, 0.5)))


def db_from_limit(auc: float, snr_db: float, n_tones: int, duration_s: float) -> float:
    """How much stronger the tones had to be than for the best possible detector to reach the same AUC, in dB."""
    lowest, highest = -60.0, 10.0
    if auc <= auc_limit(lowest, n_tones, duration_s):
        return float("nan")
    equal = brentq(lambda db: auc_limit(db, n_tones, duration_s) - auc, lowest, highest)
    return float(snr_db - equal)
