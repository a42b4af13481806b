"""What is written for programs is JSON, whatever the figures are."""

import json
import math

import pytest

from okd_jax.cli import common
from okd_jax.runs import outcome, spread, summary
from okd_jax.storage import strict_json

FIGURES = {"test/leader/pck": 50.0, "test/leader/pck_wrist": math.nan}
RUN = {
  **{name: "" for name in ("method", "net", "kind", "num_peers", "data")},
  **{"epochs": 1, "best_by": None, "last": FIGURES, "best": FIGURES},
}


def strict(text):
  """Reads JSON as others do, who know no NaN."""

  def refuse(word):
    raise AssertionError(f"{word} is no JSON")

  return json.loads(text, parse_constant=refuse)


def test_a_summary_has_null_and_is_read_as_nan(tmp_path):
  summary.finish(tmp_path, RUN)
  path = tmp_path / "summary.json"
  assert strict(path.read_text())["last"]["test/leader/pck_wrist"] is None
  found = outcome.read(tmp_path)
  assert found["best_by"] is None and found["last"]["test/leader/pck"] == 50
  for name in ("last", "best"):
    assert math.isnan(found[name]["test/leader/pck_wrist"])


def test_seeds_of_figures_that_are_not_there_have_a_summary(tmp_path):
  spread.write(tmp_path, [RUN | {"seed": seed} for seed in (0, 1)])
  last = strict((tmp_path / "summary.json").read_text())["last"]
  assert last["test/leader/pck"] == {"mean": 50, "deviation": 0}
  nothing = {"mean": None, "deviation": None}
  assert last["test/leader/pck_wrist"] == nothing


def test_commands_print_null(capsys):
  common.print_json({"figures": [FIGURES], "path": "a"})
  found = strict(capsys.readouterr().out)
  assert found["figures"][0]["test/leader/pck_wrist"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_what_is_not_finite_changes(value):
  content = {"a": [1, 2.5, (True, "nan")], "b": {"c": value}, "d": None}
  found = strict(strict_json.text(content))
  assert found == {"a": [1, 2.5, [True, "nan"]], "b": {"c": None}, "d": None}


def test_a_damaged_summary_is_none(tmp_path):
  path = tmp_path / "summary.json"
  path.write_text('{"last": [1]}')
  assert outcome.read(tmp_path) is None
