"""What models are worth: accuracy on clean and on corrupted images, alone or beside another model's, as tables."""

from hf_rws.evaluation._evaluate import accuracy, compare, evaluate, predict
from hf_rws.evaluation.adversary import Adversary, attack
from hf_rws.evaluation.labels import Answers, match_classes
from hf_rws.evaluation.tables import Comparison, Difference, Evaluation, Row

__all__ = [
    "Adversary",
    "Answers",
    "Comparison",
    "Difference",
    "Evaluation",
    "Row",
    "accuracy",
    "attack",
    "compare",
    "evaluate",
    "match_classes",
    "predict",
]
