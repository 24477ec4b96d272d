"""AUC with a group-bootstrap interval on 50,000 predictions, against a loop over scikit-learn; and 500,000 in full.

Both sides use the same 2,000 draws of groups and must give the same AUCs. The ratio is that of processor times, as both
use one thread and a busy machine does not matter; the ratio by the clock stands beside it. The loop is timed on its
first draws and scaled up, because all of them take most of a minute (`--full` runs them all). The last line is JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from lesion_tasks.metrics.document import evaluation_document
from lesion_tasks.metrics.resample import Resampling, resampled_auc
from lesion_tasks.metrics.scored import join
from lesion_tasks.metrics.threshold import choose_threshold

N_IMAGES, N_GROUPS, PREVALENCE = 50_000, 20_000, 0.2
N_LOOPED = 100
N_ROUNDS = 3
MIN_RATIO = 100.0
N_LARGE = 500_000
MAX_MEMORY_GB = 0.65


def predictions(n_images: int, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and groups of a model with an AUC of about 0.86."""
    rng = np.random.default_rng(3)
    groups = np.unique(rng.integers(0, n_groups, n_images), return_inverse=True)[1]
    is_positive = rng.random(n_images) < PREVALENCE
    scores = 1 / (1 + np.exp(-(1.5 * is_positive + rng.normal(size=n_images) - 2)))
    return is_positive, scores, groups


def looped_auc(
    is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, resampling: Resampling, n_resamples: int
) -> np.ndarray:
    """The same resamples, copied out one by one and given to scikit-learn."""
    aucs: list[float] = []
    for weights in resampling.weights(int(groups.max()) + 1):
        for weight in weights.T.astype(np.intp):
            if len(aucs) == n_resamples:
                return np.array(aucs)
            rows = np.repeat(np.arange(len(groups)), weight[groups])
            aucs.append(roc_auc_score(is_positive[rows], scores[rows]))
    return np.array(aucs)


def evaluate_large() -> None:
    """Every figure, curve and slice of 500,000 predictions; prints seconds and the peak of memory."""
    is_positive, scores, groups = predictions(N_LARGE, N_LARGE // 2)
    rng = np.random.default_rng(4)
    rows = pd.DataFrame(
        {
            "isic_id": [f"ISIC_{index:07d}" for index in range(N_LARGE)],
            "label": np.where(is_positive, "malignant", "benign"),
            "group_id": groups.astype(str),
            "sex": rng.choice(["male", "female"], N_LARGE),
            "age_years": rng.choice(np.arange(0.0, 90.0, 5.0), N_LARGE),
            "image_type": "dermoscopic",
        }
    )
    scored = join(
        dict(zip(rows["isic_id"], scores, strict=True)),
        rows,
        class_names=("benign", "malignant"),
        positive_class="malignant",
    )
    start = time.process_time()
    evaluation_document(scored, threshold=choose_threshold(scored), subset="test")
    seconds = time.process_time() - start
    # Linux reports kilobytes.
    print(
        json.dumps({"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6})
    )


def clocks() -> np.ndarray:
    """Seconds of the processor, and by the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def main() -> None:
    data, resampling = predictions(N_IMAGES, N_GROUPS), Resampling()
    resampled_auc(*predictions(1_000, 500), Resampling(n_resamples=10))  # load what is loaded on first use
    n_looped = resampling.n_resamples if "--full" in sys.argv else N_LOOPED
    our_times, peer_times = [], []
    for _ in range(N_ROUNDS):  # in turns, so that a busy machine slows both
        start = clocks()
        ours = resampled_auc(*data, resampling)
        our_times.append(clocks() - start)
        start = clocks()
        peer = looped_auc(*data, resampling, n_looped)
        peer_times.append((clocks() - start) * resampling.n_resamples / n_looped)
    (our_seconds, our_wall), (peer_seconds, peer_wall) = np.median([our_times, peer_times], axis=1)
    worst = float(np.abs(ours[:n_looped] - peer).max())
    large = subprocess.run(  # its own process: peak memory is counted per process
        [sys.executable, __file__, "--large"], capture_output=True, text=True, check=True
    )
    large_numbers = json.loads(large.stdout.splitlines()[-1])
    ratio = peer_seconds / our_seconds
    passed = ratio >= MIN_RATIO and worst < 1e-12 and large_numbers["peak_gb"] <= MAX_MEMORY_GB
    print(f"{n_looped} of {resampling.n_resamples} draws looped; largest difference of an AUC {worst:.2g}")
    print(
        f"{N_LARGE:,} predictions in full: {large_numbers['seconds']:.1f} s, {large_numbers['peak_gb']:.2f} GB"
    )
    print(
        json.dumps(
            {
                "name": "evaluate: AUC with 2,000 group resamples, 50,000 predictions",
                "ours": round(our_seconds, 3),
                "peer": round(peer_seconds, 3),
                "unit": "CPU s",
                "ratio": round(ratio, 1),
                "target": MIN_RATIO,
                "passed": bool(passed),
                "ratio_by_the_clock": round(peer_wall / our_wall, 1),
                "max_difference": worst,
                "large": large_numbers,
            }
        )
    )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    evaluate_large() if "--large" in sys.argv else main()
