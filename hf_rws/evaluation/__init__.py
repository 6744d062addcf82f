"""What models are worth: accuracy on clean and on corrupted images, alone or beside another model's, as tables."""

from hf_rws.evaluation._evaluate import accuracy, check_image_labels, compare, evaluate, predict
from hf_rws.evaluation.labels import check_count, match_classes
from hf_rws.evaluation.tables import Comparison, Difference, Evaluation, Row

__all__ = [
    "Comparison",
    "Difference",
    "Evaluation",
    "Row",
    "accuracy",
    "compare",
    "evaluate",
    "match_classes",
    "predict",
]
