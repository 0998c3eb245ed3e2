"""The benchmark of equal steps, with our own models in the place of CGENN's."""

import json

import pytest
import torch
from torch import nn

from benchmarks import equal_steps, paper_models
from benchmarks.paper_models import MODELS, Theirs

CASES = list(MODELS)
SMALL = {
    "nbody": {"trajectories": {"train": 8, "val": 1, "test": 4, "stream": [8, 1, 4]}},
    **{case: {"train": 64, "val": 1, "test": 16} for case in CASES if case != "nbody"},
}


class StandIn(nn.Module):
    """A model of ours that is called as CGENN's are."""

    def __init__(self, case, model):
        super().__init__()
        self.case, self.model = case, model

    def forward(self, batch, step):
        return MODELS[self.case].loss(self.model, batch), {}


def stand_in(case, ours, settings):
    prefix = "model."
    module = StandIn(case, MODELS[case].ours())
    return Theirs(module, lambda state: {name.removeprefix(prefix): value for name, value in state.items()})


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run the command on a few samples; its results."""
    published = equal_steps.configuration
    monkeypatch.setattr(
        equal_steps,
        "configuration",
        lambda case: {**published(case), "data": {**published(case)["data"], "batch_size": 4, **SMALL[case]}},
    )
    monkeypatch.setattr(equal_steps, "opponent", stand_in)

    def run(*arguments):
        output = tmp_path / "equal_steps.json"
        common = ["--cgenn=nowhere", f"--data={tmp_path}/data", "--device=cpu", f"--output={output}"]
        equal_steps.main([*common, *arguments])
        return {result["case"]: result for result in json.loads(output.read_text())["results"]}

    return run


def test_a_model_beside_itself_ends_where_it_ends(command):
    results = command("--steps=5", "--evaluations=3", "--seeds", "0", "1")
    assert list(results) == CASES
    for case, result in results.items():
        assert [run["seed"] for run in result["runs"]] == [0, 1]
        assert result["ratio"] == pytest.approx(1, rel=1e-6), case
        for run in result["runs"]:
            assert run["CGENN"]["after"] == [1, 3, 5]
            assert run["ours"]["losses"] == pytest.approx(run["CGENN"]["losses"], rel=1e-6)
            assert run["ours"]["test"] == pytest.approx(run["CGENN"]["test"], rel=1e-6)
            assert len(set(run["ours"]["test"])) == 3  # it does learn
        first, second = (run["ours"]["test"] for run in result["runs"])
        assert first != second


def test_a_run_from_other_weights_is_not_reported(command, monkeypatch, tmp_path):
    def moved(case, ours, settings):
        theirs = stand_in(case, ours, settings)

        def as_ours(state):
            converted = {name: value.clone() for name, value in theirs.as_ours(state).items()}
            if case == "hulls":
                with torch.no_grad():  # after ours has them
                    next(theirs.module.parameters()).mul_(1.001)
            return converted

        return Theirs(theirs.module, as_ours)

    monkeypatch.setattr(equal_steps, "opponent", moved)
    with pytest.raises(SystemExit, match=r"^hulls, seed 0: the first steps differ by .*: the run is not reported$"):
        command("--steps=1", "--evaluations=1", "--case", "volume", "hulls")
    written = json.loads((tmp_path / "equal_steps.json").read_text())
    assert [result["case"] for result in written["results"]] == ["volume"]


def test_nothing_hides_what_is_no_number():
    state = {"loss": torch.ones(()), "weight": torch.ones(3)}
    broken = {**state, "weight": torch.full((3,), torch.nan)}
    assert paper_models.largest_error(state, state) == 0
    for pair in ((broken, state), (state, broken)):
        assert not paper_models.largest_error(*pair) < equal_steps.TOLERANCE


def test_more_evaluations_than_steps_are_refused(command, capsys):
    with pytest.raises(SystemExit):
        command("--steps=4", "--evaluations=5")
    assert "--evaluations: got 5, wanted 1 to 4" in capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_settings_are_the_published_ones(case):
    """Batch, learning rate, weight decay, and whether there is a schedule."""
    wanted = {"nbody": (100, 0.004, 1e-4, True), "regression": (32, 1e-3, 0, False)}
    published = equal_steps.configuration(case)
    model = published["model"]
    got = (published["data"]["batch_size"], model["learning_rate"], model.get("weight_decay", 0), "decay" in model)
    assert got == wanted.get(case, (128, 1e-3, 0, False))
