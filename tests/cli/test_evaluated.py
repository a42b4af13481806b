"""What tables of an evaluation show."""

import dataclasses
from pathlib import Path

import pytest

from okd_jax.cli import evaluated
from okd_jax.tasks import classification
import toys


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_top5_is_shown_where_it_can_be_wrong(classes, shown, capsys):
  info = dataclasses.replace(
    toys.INFO, num_classes=classes, class_names=tuple("abcdef"[:classes])
  )
  values = {measure.name: 1.0 for measure in classification.Task.measures}
  found = evaluated.Evaluated(
    workdir=Path("run"),
    step=3,
    task=classification.Task.of(info),
    count=4,
    distances={},
    values={"leader": values | {"correct": 4}},
    first=[values, values],
    closer=None,
  )
  evaluated.report(found, "test", as_json=False)
  assert capsys.readouterr().out.count("top-5") == 2 * shown
  evaluated.report_several([found, found], Path("run"), "test", as_json=False)
  assert capsys.readouterr().out.count("top-5") == 2 * shown
  assert "accuracy_top5" in found.as_json["figures"]["leader"]
