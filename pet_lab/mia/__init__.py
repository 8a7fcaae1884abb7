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
    check_attacks,
    holdout_logistic,
    run_suite,
    slice_masks,
    table,
)
from pet_lab.mia.audit import (
    EpsilonBound,
    clopper_pearson,
    epsilon_lower_bound,
    largest_provable_epsilon,
    most_exposed_bound,
    one_run_epsilon_lower_bound,
)
from pet_lab.mia.lira import lira_leave_one_out, random_halves
from pet_lab.mia.roc import (
    Roc,
    advantage,
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
from pet_lab.mia.targets import (
    ONE_CLASS,
    Coins,
    Split,
    Target,
    check_plan,
    coin_trainings,
    report_split,
    split_streams,
    train_targets,
)

__all__ = [
    "ATTACKS",
    "ONE_CLASS",
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
    "Target",
    "advantage",
    "attack_models",
    "auc",
    "auc_interval",
    "chance_advantage",
    "chance_auc_sd",
    "check_attacks",
    "check_plan",
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
    "holdout_logistic",
    "largest_provable_epsilon",
    "lira_leave_one_out",
    "most_exposed_bound",
    "nearest_distances",
    "one_run_epsilon_lower_bound",
    "random_halves",
    "read_scores",
    "report_split",
    "roc",
    "run_suite",
    "shadow_masks",
    "signed_logits",
    "slice_masks",
    "split_streams",
    "synthesise",
    "table",
    "tpr_at_fpr",
    "train_targets",
]
