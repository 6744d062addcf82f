"""What trackers get of a training and of a study, and that they are there before it begins."""

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType

from hf_rws.errors import MissingExtraError, OptionError
from hf_rws.study import create_start, run_study
from hf_rws.training import train
from tests import helpers
from tests.helpers import on_cpu  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("on_cpu"),
    pytest.mark.filterwarnings("ignore:the distillation did not help"),
]


class Recorder(accelerate.tracking.GeneralTracker):
    """A tracker that keeps what it gets."""

    name = "tensorboard"
    requires_logging_directory = True

    def __init__(self, run_name, logging_dir=None, **options):
        super().__init__()
        self.logged, self.ended = {}, False
        self.runs.append(self)

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **options):
        self.logged |= values

    def finish(self):
        self.ended = True


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    monkeypatch.setattr(Recorder, "runs", [], raising=False)
    return Recorder.runs


def test_a_training_reports_ta_and_ra(runs, tmp_path):
    result = train(
        helpers.model(), helpers.splits(), tmp_path / "run",
        helpers.arguments(epochs=1, corruption=("fog",), log_with=("tensorboard",)),
    )  # fmt: skip
    (run,) = runs
    assert run.ended
    assert run.logged["TA"] == result.test_accuracy["clean"]
    assert run.logged["RA/fog-5"] == result.test_accuracy["fog-5"]
    assert {"loss", "validation_accuracy"} <= run.logged.keys()


def test_a_study_reports_its_table(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rws.distillation.loop.default_steps", lambda *arguments, **options: 2)
    data = helpers.splits()
    study = run_study(
        create_start("vgg16_gap", data, width=0.05), data, tmp_path / "study",
        helpers.arguments(epochs=1, log_with=("tensorboard",)), corruptions=["fog"], distilled=25, scale_curve=False,
    )  # fmt: skip
    assert all(run.ended for run in runs)
    (row,) = study.rows
    expected = {f"fog-5/TA/{who}": value for who, value in row.ta.items()}
    expected |= {f"fog-5/RA/{who}": value for who, value in row.ra.items()}
    expected |= {f"fog-5/nbytes/{who}": value for who, value in row.nbytes.items()}
    assert runs[-1].logged == expected
    assert expected.keys() >= {"fog-5/RA/standard", "fog-5/RA/distilled", "fog-5/RA/extracted", "fog-5/RA/robust"}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("wandbb", OptionError, "log_with=wandbb is no tracker that Accelerate knows; known: .*tensorboard"),
        ("wandb", MissingExtraError, "the tracker wandb is not installed: pip install wandb"),
        ("all", MissingExtraError, "no tracker is installed: pip install tensorboard"),
    ],
)
def test_what_is_not_there_is_said_before_anything_begins(name, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [])
    monkeypatch.setattr("hf_rws.training.trainer._TrainingRun", None)
    data, arguments = helpers.splits(), helpers.arguments(log_with=(name,))
    with pytest.raises(error, match=message):
        train(helpers.model(), data, tmp_path / "run", arguments)
    with pytest.raises(error, match=message):
        run_study(helpers.model(), data, tmp_path / "study", arguments, corruptions=["fog"])
    assert not list(tmp_path.iterdir())
