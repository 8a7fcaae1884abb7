"""Membership inference: attack scores, ROC curves, shadow models, LiRA, a bound on epsilon.

Attacks take scores from anywhere: `read_scores` (a CSV), `from_keras`, `from_estimator`
(scikit-learn), or arrays. Importing this package loads neither TensorFlow nor scikit-learn.

>>> from pet_lab import mia
>>> mia.auc([0.9, 0.8, 0.4], [0.7, 0.3])
0.8333333333333334
>>> mia.tpr_at_fpr([0.9, 0.8, 0.4], [0.7, 0.3], fpr=0.0)
0.6666666666666666
"""

from pet_lab.mia.attacks import (
    ATTACKS,
    SLICES,
    AttackResult,
    best,
    holdout_logistic,
    run_suite,
    slice_masks,
    table,
)
from pet_lab.mia.audit import (
    EpsilonBound,
    clopper_pearson,
    epsilon_lower_bound,
    gaussian_epsilon,
    largest_provable_epsilon,
    most_exposed_bound,
    one_run_epsilon_lower_bound,
)
from pet_lab.mia.experiments import (
    Coins,
    Split,
    attack_sweep,
    attack_synthetic,
    attack_training,
    coin_trainings,
    report_epsilon,
    report_split,
    scaled,
    shadow_attack,
)
from pet_lab.mia.lira import lira, lira_leave_one_out, random_halves
from pet_lab.mia.roc import (
    Roc,
    advantage,
    advantage_interval,
    auc,
    auc_interval,
    chance_advantage,
    chance_auc_sd,
    roc,
    tpr_at_fpr,
)
from pet_lab.mia.scores import (
    DivergedError,
    Outputs,
    from_estimator,
    from_keras,
    from_logits,
    from_probabilities,
    read_scores,
    signed_logits,
)
from pet_lab.mia.shadow import (
    AttackModels,
    Domain,
    Synthesis,
    SynthesisError,
    attack_models,
    decision_metrics,
    shadow_masks,
    synthesise,
)
from pet_lab.mia.tables import closeness_scores, density_ratio_scores, nearest_distances

__all__ = [
    "ATTACKS",
    "SLICES",
    "AttackModels",
    "AttackResult",
    "Coins",
    "DivergedError",
    "Domain",
    "EpsilonBound",
    "Outputs",
    "Roc",
    "Split",
    "Synthesis",
    "SynthesisError",
    "advantage",
    "advantage_interval",
    "attack_models",
    "attack_sweep",
    "attack_synthetic",
    "attack_training",
    "auc",
    "auc_interval",
    "best",
    "chance_advantage",
    "chance_auc_sd",
    "clopper_pearson",
    "closeness_scores",
    "coin_trainings",
    "decision_metrics",
    "density_ratio_scores",
    "epsilon_lower_bound",
    "from_estimator",
    "from_keras",
    "from_logits",
    "from_probabilities",
    "gaussian_epsilon",
    "holdout_logistic",
    "largest_provable_epsilon",
    "lira",
    "lira_leave_one_out",
    "most_exposed_bound",
    "nearest_distances",
    "one_run_epsilon_lower_bound",
    "random_halves",
    "read_scores",
    "report_epsilon",
    "report_split",
    "roc",
    "run_suite",
    "scaled",
    "shadow_attack",
    "shadow_masks",
    "signed_logits",
    "slice_masks",
    "synthesise",
    "table",
    "tpr_at_fpr",
]
