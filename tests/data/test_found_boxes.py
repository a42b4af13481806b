"""Boxes as annotators and detectors write them."""

import json
import pathlib

import numpy as np
import pytest

from okd_jax.data.keypoints import found
from okd_jax.errors import DataError

DETECTION = {
  "image_id": 139,
  "category_id": 1,
  "bbox": [5.0, 6.0, 7.0, 8.5],
  "score": 0.9,
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


def test_without_a_box_that_of_the_joints_is_taken(tmp_path):
  content = annotations(bbox=None, keypoints=[1, 2, 1, 4, 8, 2, 99, 99, 0])
  by_picture = found.ByPicture(written(tmp_path, content))
  (box,) = by_picture.of(pathlib.Path("a.png"))
  np.testing.assert_array_equal(box.box, [1, 2, 3, 6])


def test_detections_are_found_by_number_or_name(tmp_path):
  named = DETECTION | {"image_id": 7, "file_name": "cat.jpg", "score": 0.1}
  path = written(tmp_path, [DETECTION, named, DETECTION])
  by_picture = found.ByPicture(path)
  assert len(by_picture.of(pathlib.Path("val2017/000000000139.jpg"))) == 2
  assert by_picture.of(pathlib.Path("cat.jpg"))[0].score == 0.1
  assert [f.image_id for f in found.detections(path)] == [139, 7, 139]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"annotations": []}, "neither images with 'id'"),
    ([{**DETECTION, "bbox": [1, 2, 3]}], "entry 0 of its boxes"),
    ([{**DETECTION, "bbox": [1, 2, -3, 4]}], "entry 0 of its boxes"),
    ([{**DETECTION, "bbox": [1, 2, float("nan"), 4]}], "entry 0 of its boxes"),
    ([DETECTION, {**DETECTION, "score": None}], "entry 1 of its boxes"),
    ([DETECTION, 5], "entry 1 of its boxes"),
    (annotations(image_id="y"), "entry 0 of its boxes"),
    (annotations(bbox=None), "entry 0 of its boxes"),
  ],
)
def test_damaged_boxes_are_refused(tmp_path, content, message):
  path = written(tmp_path, content)
  with pytest.raises(DataError, match=rf"boxes.json.*{message}"):
    found.ByPicture(path)
  path.write_text(path.read_text()[:-5])
  with pytest.raises(DataError, match="cannot be read as JSON"):
    found.ByPicture(path)
