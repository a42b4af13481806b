"""Figures of each class against scikit-learn and NumPy."""

import csv
import dataclasses
import io
import json

import matplotlib as mpl
import numpy as np
from PIL import Image
import pytest
from sklearn import metrics

from okd_jax.results import canvas, classes, closer, closer_page, closer_plots
from okd_jax.tasks.choices import Choices
from okd_jax.training.closely import Seen

NAMES = ("ant", "bee", "cat", "d<g")
rng = np.random.default_rng(0)
# Nothing is of the last class or taken for the third.
LABEL = rng.integers(0, 3, 200)
SAID = np.where(rng.random(200) < 0.6, LABEL, rng.integers(0, 4, 200))
SAID[SAID == 2] = 1


def test_figures_of_a_class_are_those_of_scikit_learn():
  matrix = classes.confusion(LABEL, SAID, 4)
  labels = range(4)
  np.testing.assert_array_equal(
    matrix, metrics.confusion_matrix(LABEL, SAID, labels=labels)
  )
  found = classes.by_class(matrix)
  precision, recall, _, count = metrics.precision_recall_fscore_support(
    LABEL, SAID, labels=labels, zero_division=np.nan
  )
  assert np.isnan(precision[2]) and np.isnan(recall[3])
  np.testing.assert_allclose(found.precision, precision)
  np.testing.assert_allclose(found.recall, recall)
  np.testing.assert_array_equal(found.count, count)
  accuracy = [metrics.accuracy_score(LABEL == c, SAID == c) for c in labels]
  np.testing.assert_allclose(found.accuracy, accuracy)


def test_confusions_are_sorted_and_leave_out_what_is_right():
  matrix = np.array([[9, 1, 0], [4, 9, 2], [0, 0, 9]])
  assert classes.frequent(matrix, 2) == [(1, 0, 4), (1, 2, 2)]
  assert len(classes.frequent(matrix, 9)) == 3


def test_reliability_is_counted_in_equal_bins():
  sure = np.array([0.05, 0.06, 0.5, 0.99, 1.0])
  found = classes.reliability(sure, np.array([0, 1, 1, 1, 0], bool))
  assert found.count[[0, 7, 14]].tolist() == [2, 1, 2]
  assert found.count.sum() == 5
  np.testing.assert_allclose(found.confidence[[0, 14]], [0.055, 0.995])
  np.testing.assert_allclose(found.accuracy[[0, 7, 14]], [0.5, 1, 0.5])
  # 0.89 + 0.5 + 0.99 examples too many or too few, of 5.
  assert found.error == pytest.approx((0.89 + 0.5 + 0.99) / 5)


def test_agreement_counts_equal_choices():
  first = np.array([[0, 1, 2, 3], [0, 1, 0, 0], [0, 1, 2, 0]])
  assert classes.agreement(first)[0].tolist() == [1, 0.5, 0.75]


@pytest.fixture(scope="module")
def found():
  image = np.zeros((8, 8, 1), np.uint8)
  wrong = np.flatnonzero(LABEL != SAID)
  sure = np.linspace(0.3, 0.9, 200)
  surest = wrong[::-1][:2]
  choices = Choices(
    label=LABEL,
    index=np.arange(200) + 1000,
    mask=np.ones(200, bool),
    first=np.stack([LABEL, SAID, SAID]),
    confidence=np.stack([sure, sure, sure]),
  )
  names = ("peer_0", "peer_1", "ensemble")
  seen = Seen([], names, choices, [(int(place), image) for place in surest])
  files = [f"a&b/{place}.png" for place in range(1200)]
  return closer.of(seen, NAMES, 1, "step 3, test", files)


def test_files_hold_what_was_found(found, tmp_path):
  closer.write(found, tmp_path)

  def lines_of(name):
    return (tmp_path / name).read_text().splitlines()

  lines = list(csv.reader(lines_of("confusion.csv")))
  assert lines[0] == ["class", *NAMES]
  counted = np.array([line[1:] for line in lines[1:]], int)
  np.testing.assert_array_equal(counted, found.matrix)
  mistakes = list(csv.DictReader(lines_of("wrong.csv")))
  assert len(mistakes) == np.sum(LABEL != SAID)
  sure = [float(line["confidence"]) for line in mistakes]
  assert sure == sorted(sure, reverse=True)
  for line in mistakes:
    place = int(line["index"]) - 1000
    assert line["class"] == NAMES[LABEL[place]]
    assert line["taken_for"] == NAMES[SAID[place]]
    assert line["file"] == f"a&b/{line['index']}.png"
  (last,) = [
    line
    for line in csv.DictReader(lines_of("classes.csv"))
    if line["class"] == "d<g"
  ]
  assert last["recall"] == "" and float(last["precision"]) == 0
  again = closer.read(tmp_path)
  assert again.as_json() == found.as_json() and again.images == found.images
  assert Image.open(io.BytesIO(again.images[0])).size == (96, 96)


def test_two_classes_may_have_one_name(found, tmp_path):
  names = [found.names[0], *found.names[:-1]]
  closer.write(dataclasses.replace(found, names=names), tmp_path)
  again = closer.read(tmp_path)
  assert again.names == names
  assert len(again.tables()[0].rows) == len(names)
  # As earlier releases wrote it.
  closer.write(found, tmp_path)
  saved = json.loads((tmp_path / "per_class.json").read_text())
  del saved["names"]
  (tmp_path / "per_class.json").write_text(json.dumps(saved))
  assert closer.read(tmp_path).names == list(found.names)


def test_names_of_files_that_are_no_text_are_shown(found, tmp_path):
  names = [*found.names[:-1], "caf\udce9"]
  wrong = [each._replace(file="caf\udce9.png") for each in found.wrong]
  odd = dataclasses.replace(found, names=names, wrong=wrong)
  folder = tmp_path / "per_class" / "test"
  closer.write(odd, folder)
  assert closer.read(folder).wrong == wrong
  assert "caf\\udce9.png" in (folder / "wrong.csv").read_text()
  closer.write(odd, tmp_path)
  assert closer.read(tmp_path).names == names
  assert "caf\\udce9" in (tmp_path / "classes.csv").read_text()
  drawn = closer_plots.plot(odd, tmp_path)
  svg = drawn[[path.name for path in drawn].index("confusion.svg")]
  assert "caf\\udce9" in svg.read_text()


def test_a_page_shows_mistakes_and_pictures(found, tmp_path):
  closer.write(found, tmp_path / "per_class" / "test")
  text = "".join(closer_page.parts(tmp_path, "s0"))
  assert text.count("<svg") == 3 and text.count("<img") == 2
  assert f"{np.sum(LABEL != SAID)} of 200" in text
  assert "d&lt;g" in text and "d<g" not in text
  assert "a&amp;b/" in text and "a&b/" not in text
  assert closer_page.parts(tmp_path / "per_class", "s0") == []


@pytest.mark.long
def test_many_classes_are_drawn(found, tmp_path):
  many = [f"class {i}" for i in range(1203)]
  matrix = np.zeros((1203, 1203), int)
  matrix[5, 7] = 3
  seen = closer.Closer(
    "all", many, matrix, found.reliability, ["peer_0"], np.ones((1, 1)), [], []
  )
  assert len(closer_plots.plot(seen, tmp_path)) == 4


def test_names_are_drawn_as_they_are(tmp_path, caplog):
  """Dollars are no mathematics; letters without a shape are told once."""
  names = ["$5_$10", "$x_1$", "\u65e5\u672c"]
  with mpl.rc_context(canvas.STYLE):
    figure, (panel,) = canvas.panels("costs $5_$10", 1, "$_{$")
    for name in names:
      panel.plot([1, 2], [0.1, 10.0], label=name)
    canvas.log_scale(panel)
    canvas.legend(figure)
    files = canvas.save({"drawn": figure, "again": figure}, tmp_path)
  text = files[1].read_text()
  for name in (*names, "costs $5_$10", "$_{$", "0.1", "10"):
    assert f"<!-- {name} -->" in text
  (told,) = [record.getMessage() for record in caplog.records]
  assert "\u65e5 \u672c" in told and "font.family" in told
