"""A study: one start, a standard model, robust models, their signatures, and what they are worth."""

from hf_rws.study.measuring import Study, StudyRow
from hf_rws.study.run import create_start, run_study

__all__ = [
    "Study",
    "StudyRow",
    "create_start",
    "run_study",
]
