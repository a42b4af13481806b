"""Boxes as annotators and detectors write them."""

import dataclasses
import json
import pathlib
import weakref

import numpy as np
from PIL import Image
import pytest

from okd_jax.data.keypoints import found, info
from okd_jax.errors import DataError
from okd_jax.tasks import keypoint_answers
from okd_jax.weights import predict

DETECTION = {
  "image_id": 139,
  "category_id": 1,
  "bbox": [5.0, 6.0, 7.0, 8.5],
  "score": 0.9,
}
CARD = {
  "image_shape": (16, 16, 3),
  "exif": True,
  "flip": False,
  "keypoints": dataclasses.asdict(
    info.KeypointInfo(pairs=(), bones=(), sigmas=(), torso=())
  ),
}


def written(folder, content):
  path = folder / "boxes.json"
  path.write_text(json.dumps(content))
  return path


def annotations(**entry):
  image = {"id": "x", "file_name": "b\\a.png", "width": 9, "height": 8}
  given = {"id": 1, "image_id": "x", "bbox": [1, 2, 3, 4]}
  crowd = given | {"id": 2, "iscrowd": 1}
  return {"images": [image], "annotations": [given | entry, crowd]}


@pytest.mark.parametrize("name", ["b/a.png", "other/b/a.png", "a.png"])
def test_boxes_of_annotators_are_found_by_name(tmp_path, name):
  by_picture = found.ByPicture(written(tmp_path, annotations()))
  (box,) = by_picture.of(pathlib.Path(name))
  assert (box.image_id, box.score, box.size) == ("x", 1.0, (9, 8))
  np.testing.assert_array_equal(box.box, [1, 2, 3, 4])
  with pytest.raises(DataError, match=r"no box for .*other.png"):
    by_picture.of(pathlib.Path("other.png"))


def test_the_mark_of_windows_at_the_beginning_is_left_out(tmp_path):
  path = tmp_path / "boxes.json"
  path.write_text(json.dumps([DETECTION]), encoding="utf-8-sig")
  assert [each.image_id for each in found.detections(path)] == [139]


@pytest.mark.parametrize("empty", [None, [0, 0, 0, 0]])
def test_without_a_box_that_of_the_joints_is_taken(tmp_path, empty):
  content = annotations(bbox=empty, keypoints=[1, 2, 1, 4, 8, 2, 99, 99, 0])
  by_picture = found.ByPicture(written(tmp_path, content))
  (box,) = by_picture.of(pathlib.Path("a.png"))
  np.testing.assert_array_equal(box.box, [1, 2, 3, 6])


@pytest.mark.parametrize(
  "more", [{}, {"keypoints": []}, {"keypoints": [0] * 6}]
)
def test_what_training_leaves_out_does_not_stop_the_others(tmp_path, more):
  content = annotations()
  image = {"id": "y", "file_name": "c.png", "width": 9, "height": 8}
  content["images"].append(image)
  content["annotations"].append({"id": 3, "image_id": "y"} | more)
  by_picture = found.ByPicture(written(tmp_path, content))
  assert len(by_picture.of(pathlib.Path("a.png"))) == 1
  with pytest.raises(DataError, match="no box for c.png"):
    by_picture.of(pathlib.Path("c.png"))


@pytest.mark.parametrize(
  "box, outside",
  [([40, 2, 5, 5], True), ([-9, 2, 9, 5], True), ([-9, -9, 10, 10], False)],
)
def test_a_box_outside_of_its_picture_is_not_asked_about(
  tmp_path, box, outside
):
  file = tmp_path / "a.png"
  Image.new("RGB", (40, 30)).save(file)
  detection = DETECTION | {"file_name": "a.png", "bbox": box}
  asking = keypoint_answers.Asking(CARD, written(tmp_path, [detection]))
  if not outside:
    assert asking.question(file, 1).views.shape == (1, 16, 16, 3)
    return
  with pytest.raises(DataError, match=r"is 40 x 30, and its box .* outside"):
    asking.question(file, 1)


def test_few_views_are_held_at_a_time(tmp_path):
  """As bytes, without mirror images, and some batches' at most."""
  boxes = [DETECTION | {"image_id": i} for i in range(40) for _ in range(20)]
  files = [tmp_path / f"{i}.png" for i in range(40)]
  for file in files:
    Image.new("RGB", (40, 30)).save(file)
  held, most = [], 0

  class Asking(keypoint_answers.Asking):
    def question(self, file, number):
      asked = super().question(file, number)
      assert asked.views.dtype == np.uint8 and len(asked.views) == 20
      held.append(weakref.ref(asked.views))
      return asked

  def apply(inputs):
    nonlocal most
    assert len(inputs) <= 64 and inputs.dtype == np.float32
    most = max(most, sum(views() is not None for views in held))
    return np.zeros((len(inputs), 4, 4, 1), np.float32)

  asking = Asking(CARD | {"flip": True}, written(tmp_path, boxes))
  (results,) = predict.ask([predict.Network(asking, apply)], files)
  assert [len(each["predictions"]) for each in results] == [20] * 40
  # Four pictures make a batch, and seven are prepared ahead.
  assert 4 <= most <= 4 + 7 + 1


def test_empty_boxes_of_a_detector_are_left_out(tmp_path):
  empty = DETECTION | {"image_id": 7, "bbox": [1, 2, 0, 0]}
  by_picture = found.ByPicture(written(tmp_path, [DETECTION, empty]))
  assert len(by_picture.of(pathlib.Path("139.jpg"))) == 1
  with pytest.raises(DataError, match="no box for 7.jpg"):
    by_picture.of(pathlib.Path("7.jpg"))


def test_detections_are_found_by_number_or_name(tmp_path):
  named = DETECTION | {"image_id": 7, "file_name": "cat.jpg", "score": 0.1}
  path = written(tmp_path, [DETECTION, named, DETECTION])
  by_picture = found.ByPicture(path)
  assert len(by_picture.of(pathlib.Path("val2017/000000000139.jpg"))) == 2
  assert by_picture.of(pathlib.Path("cat.jpg"))[0].score == 0.1
  assert [f.image_id for f in found.detections(path)] == [139, 7, 139]


@pytest.mark.parametrize(
  ("names", "file", "expected"),
  [
    # The folders of the file may count or be left out, so it may be either.
    (["a.png", "x/a.png"], "x/a.png", None),
    (["a.png", "x/a.png"], "y/a.png", 0),
    (["x/a.png", "z/x/a.png"], "/z/x/a.png", None),
    (["x/a.png", "y/a.png"], "a.png", None),
    (["x/a.png", "y/a.png"], "y/a.png", 1),
    (["x/a.png"], "moved/a.png", 0),
    (["/a/a.png", "/a/x/a.png", "a.png"], "/a/x/a.png", 1),
    (["/a/a.png", "/a/x/a.png", "a.png"], "/b/../a/a.png", 0),
  ],
)
def test_a_picture_that_two_names_may_mean_is_refused(
  tmp_path, names, file, expected
):
  content = [
    DETECTION | {"image_id": 1000 + i, "file_name": name}
    for i, name in enumerate(names)
  ]
  by_picture = found.ByPicture(written(tmp_path, content))
  if expected is not None:
    (box,) = by_picture.of(pathlib.Path(file))
    assert box.image_id == 1000 + expected
    return
  listed = ", ".join(sorted(names))
  with pytest.raises(DataError, match=rf"several pictures for .*\({listed}\)"):
    by_picture.of(pathlib.Path(file))


@pytest.mark.parametrize("name", ["0.png", "0000.png"])
def test_the_picture_of_number_zero_is_found(tmp_path, name):
  path = written(tmp_path, [DETECTION | {"image_id": 0}])
  (box,) = found.ByPicture(path).of(pathlib.Path(name))
  assert box.image_id == 0


def test_categories_may_have_texts_as_ids(tmp_path):
  path = written(tmp_path, annotations(category_id="mouse"))
  (box,) = found.ByPicture(path).of(pathlib.Path("a.png"))
  assert box.category_id == "mouse"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"annotations": []}, "neither images with 'id'"),
    (annotations() | {"annotations": None}, "annotations=None is no list"),
    (annotations() | {"images": []}, "entry 0 of its boxes"),
    ([{**DETECTION, "category_id": float("inf")}], "entry 0 of its boxes"),
    ([{**DETECTION, "bbox": [1, 2, 3]}], "entry 0 of its boxes"),
    ([{**DETECTION, "bbox": [1, 2, -3, 4]}], "entry 0 of its boxes"),
    ([{**DETECTION, "bbox": [1, 2, float("nan"), 4]}], "entry 0 of its boxes"),
    ([DETECTION, {**DETECTION, "score": None}], "entry 1 of its boxes"),
    ([DETECTION, 5], "entry 1 of its boxes"),
    (annotations(image_id="y"), "entry 0 of its boxes"),
    ([{**DETECTION, "bbox": None}], "entry 0 of its boxes"),
    (annotations(iscrowd="no"), "entry 0 of its boxes"),
  ],
)
def test_damaged_boxes_are_refused(tmp_path, content, message):
  path = written(tmp_path, content)
  with pytest.raises(DataError, match=rf"boxes.json.*{message}"):
    found.ByPicture(path)
  path.write_text(path.read_text()[:-5])
  with pytest.raises(DataError, match="cannot be read as JSON"):
    found.ByPicture(path)
