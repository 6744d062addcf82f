"""Training of timm models, clean or under corruptions: recipes, augmentation, an Accelerate loop that resumes."""

from hf_rws.training.arguments import RECIPES, TrainingArguments
from hf_rws.training.trainer import TrainingResult, train

__all__ = [
    "RECIPES",
    "TrainingArguments",
    "TrainingResult",
    "train",
]
