"""Figures are values; their names in records stay what they were."""

import pytest

from okd_jax import tasks
from okd_jax.tasks import figure as figure_lib
from okd_jax.tasks.figure import Figure
from okd_jax.tasks.measure import Measure, place_of_best

# As releases before wrote them.
NAMES = {
  "test/leader/accuracy": Figure("test", "leader", False, "accuracy"),
  "validation/peer_12/cross_entropy": Figure(
    "validation", "peer_12", False, "cross_entropy"
  ),
  "test/ema/peer_0/accuracy_top5": Figure(
    "test", "peer_0", True, "accuracy_top5"
  ),
  "test/peers_mean/accuracy": Figure("test", "peers_mean", False, "accuracy"),
  "test/ema/ensemble_classifier/accuracy": Figure(
    "test", "ensemble_classifier", True, "accuracy"
  ),
  "test/diversity": Figure("test", "", False, "diversity"),
  "test/ema/diversity": Figure("test", "", True, "diversity"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_written_and_read(name):
  assert NAMES[name].name == name
  assert figure_lib.parse(name) == NAMES[name]


def test_what_is_no_figure_is_refused():
  for name in ("loss", "peer_ce"):
    with pytest.raises(ValueError, match=name):
      figure_lib.parse(name)


def test_a_record_is_read_without_step_and_kind():
  record = {"step": 3, "kind": "eval", "test/leader/accuracy": 0.5}
  (found,) = figure_lib.of_record(record).items()
  assert found == (NAMES["test/leader/accuracy"], 0.5)


def test_predictions_are_named_as_for_an_export():
  assert figure_lib.prediction("peer_1", True) == "ema/peer_1"
  assert figure_lib.parse_prediction("ema/peer_1") == (True, "peer_1")
  assert figure_lib.parse_prediction("ensemble") == (False, "ensemble")


def test_peers_are_counted_from_0():
  assert figure_lib.peer_index(figure_lib.peer(3)) == 3
  assert figure_lib.peer_index("peers_mean") is None


def test_elements_of_a_summary():
  assert figure_lib.element("attention", (0, 1)) == "attention/0/1"
  assert figure_lib.parse_element("attention/0/1") == ("attention", (0, 1))
  assert figure_lib.parse_element("peer_ce") == ("peer_ce", ())


@pytest.mark.parametrize(
  "task, heading", [("classification", "Accuracy"), ("keypoints", "PCKh@0.5")]
)
def test_tables_begin_with_the_name_that_the_field_gives_a_measure(
  task, heading
):
  assert tasks.load(task).headline().heading == heading


def test_the_last_of_equally_good_evaluations_is_the_best():
  nan, inf = float("nan"), float("inf")
  assert place_of_best([1.0, 3.0, 3.0, 2.0]) == 2
  assert place_of_best([1.0, nan, inf, -inf]) == 0
  assert place_of_best([nan, nan]) == 1


def test_shares_are_read_in_percent_and_other_figures_as_they_are():
  share = Measure("accuracy", "top-1")
  cost = Measure("cross_entropy", "CE", False, False, phrase="cross-entropy")
  assert share.text(0.4512) == "45.12 %" and cost.text(0.4512) == "0.4512"
  assert share.spread(0.4512, 0.003) == "45.12 ± 0.30 %"
  assert cost.spread(0.4512, 0.003) == "0.4512 ± 0.0030"
  assert (share.scaled(0.5), cost.scaled(0.5)) == (50, 0.5)
  assert (share.unit, cost.unit) == (" in %", "")
  assert (share.merit(2.0), cost.merit(2.0)) == (2, -2)
  assert (share.heading, cost.heading) == ("Accuracy", "Cross-entropy")
