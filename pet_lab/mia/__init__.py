"""Membership inference: attack scores, ROC curves, shadow models, LiRA, a bound on epsilon.

Attacks take scores from anywhere: `read_scores` (a CSV), `from_keras`, `from_estimator`
(scikit-learn), or arrays. Importing this package loads neither TensorFlow nor scikit-learn.
The most used names are here; the modules hold the rest.

>>> from pet_lab import mia
>>> mia.auc([0.9, 0.8, 0.4], [0.7, 0.3])
0.8333333333333334
>>> mia.tpr_at_fpr([0.9, 0.8, 0.4], [0.7, 0.3], fpr=0.0)
0.6666666666666666
"""

# ruff: noqa: F401 - the package's face
from pet_lab.mia.attacks import (
    ATTACKS,
    SLICES,
    check_attacks,
    holdout_logistic,
    run_suite,
    toolbox_auc,
)
from pet_lab.mia.audit import epsilon_lower_bound, most_exposed_bound, one_run_epsilon_lower_bound
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
    Domain,
    SynthesisError,
    decision_metrics,
    shadow_masks,
    shadow_scores,
    synthesise,
)
from pet_lab.mia.tables import closeness_scores, density_ratio_scores
from pet_lab.mia.targets import (
    ONE_CLASS,
    Coins,
    Split,
    check_plan,
    check_spend,
    coin_trainings,
    report_split,
    spend,
    split_streams,
    train_targets,
)
