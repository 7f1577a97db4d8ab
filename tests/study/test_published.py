"""What is published agrees: `results.json` with the folders of the runs, and the cards of shipped models with both."""

import json
import shutil
from pathlib import Path

import pytest

from hybrid_dense.model_card import read_card
from hybrid_dense.model_zoo import list_models, read_cards
from hybrid_dense.study import results
from hybrid_dense.study.plan import read_plan

PROJECT = Path(__file__).parents[2]


def test_results_are_what_their_runs_say(tmp_path, monkeypatch):
    """All but the intervals, which take long and rest on the same files."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(results, "_add_intervals", lambda *_: None)
    published = json.loads(Path("results/results.json").read_text())
    shutil.copytree("results", tmp_path / "results")
    (tmp_path / "results/results.json").unlink()
    for path in sorted(Path("configs/results").glob("*.yaml")):
        results.sum_up(read_plan(path), tmp_path / "results")
    for entry in (entry for models in published.values() for entry in models.values()):
        for split in entry["splits"].values():
            split.pop("interval", None), split.pop("above", None)
    found = json.loads((tmp_path / "results/results.json").read_text())
    assert found == published, "run `hybrid-dense study` on the task, or take its runs along"


@pytest.mark.parametrize("name", list_models())
def test_a_shipped_model_is_a_published_run(name):
    card = read_card(read_cards()[name], name)
    config, seed = Path(card.training["config"]), card.training["seed"]
    run = json.loads((PROJECT / "results" / name / config.stem / f"seed{seed}/metrics.json").read_text())
    assert card.score == dict(name=run["metric_name"], split=run["split"], value=run["metric"])
    assert (card.training["commit"], card.parameters) == (run["commit"], run["params"])
