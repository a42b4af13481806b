"""Trackers find a run again."""

import dataclasses
import re
import sys
import types

from configs import okddip_digits
from okd_jax.runs import trackers
from okd_jax.settings.freeze import freeze


class Mlflow:
  """What a tracker uses of MLflow, with runs in a dictionary."""

  def __init__(self):
    self.runs = {}
    self._active = None

  def set_experiment(self, name):
    self._experiment = name

  def search_runs(
    self, experiment_names, filter_string, max_results, output_format
  ):
    assert (experiment_names, output_format) == ([self._experiment], "list")
    tag, value = re.fullmatch("tags.`(.*)` = '(.*)'", filter_string).groups()
    runs = self.runs.values()
    found = [run for run in runs if run.data.tags.get(tag) == value]
    return found[:max_results]

  def start_run(self, run_id=None, run_name=None, tags=None):
    if run_id is None:
      run_id = str(len(self.runs))
      data = types.SimpleNamespace(name=run_name, tags=dict(tags), params={})
      info = types.SimpleNamespace(run_id=run_id)
      self.runs[run_id] = types.SimpleNamespace(info=info, data=data)
    self._active = self.runs[run_id].data

  def log_params(self, params):
    for key, value in params.items():
      assert self._active.params.setdefault(key, str(value)) == str(value)

  def set_tags(self, tags):
    self._active.tags.update({k: str(v) for k, v in tags.items()})

  def end_run(self):
    self._active = None


def test_a_run_of_mlflow_is_continued(tmp_path, monkeypatch):
  mlflow = Mlflow()
  monkeypatch.setitem(sys.modules, "mlflow", mlflow)
  config = okddip_digits.get_config("smoke")
  config.trackers = ("mlflow",)
  config = freeze(config)
  longer = dataclasses.replace(config, extra_epochs=3)
  for name, settings in (
    ("a", config),
    ("a", config),
    ("a", longer),
    ("b", config),
  ):
    workdir = tmp_path / name
    workdir.mkdir(exist_ok=True)
    with trackers.started(settings, workdir) as found:
      assert found
  first, second = (run.data for run in mlflow.runs.values())
  assert (first.name, second.name) == ("a", "b")
  # A parameter of MLflow cannot be changed.
  assert first.params["extra_epochs"] == "0"
  assert first.tags["extra_epochs"] == "3"
  assert "extra_epochs" not in second.tags
  # A run that was deleted there begins anew.
  mlflow.runs.clear()
  with trackers.started(config, tmp_path / "a") as found:
    assert found
  assert len(mlflow.runs) == 1
