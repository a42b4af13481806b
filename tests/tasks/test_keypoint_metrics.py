"""Figures of keypoints against the published vectors."""

import golden
import numpy as np
import pytest

from okd_jax.data.keypoints.figures import Figure, HEAD_SHARE, torso_length
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.tasks import keypoint_figures, keypoint_metrics, keypoint_oks


def test_pckh():
  case = golden.case("pose", "pckh")
  inputs, expected = case["inputs"], case["expected"]
  points = np.moveaxis(np.array(inputs["pred"]), -1, 0)
  truth = np.moveaxis(np.array(inputs["pos_gt_src"]), -1, 0)
  labelled = np.array(inputs["jnt_missing"]).T == 0
  head_boxes = np.moveaxis(np.array(inputs["headboxes_src"]), -1, 0)
  diagonal = np.linalg.norm(head_boxes[:, 1] - head_boxes[:, 0], axis=-1)
  arguments = points, truth, labelled, HEAD_SHARE * diagonal
  left_out = keypoint_metrics.MPII_LEFT_OUT
  result = keypoint_metrics.pck(*arguments, 0.5, left_out)
  groups = keypoint_metrics.mpii_groups(result.per_joint)
  golden.assert_value(result.per_joint, expected["per_joint"])
  golden.assert_value(result.num_labelled, expected["joint_count"])
  golden.assert_value(result.mean, expected["mean_count_weighted"])
  assert groups == pytest.approx(expected["groups"], rel=1e-10)
  strict = keypoint_metrics.pck(*arguments, 0.1, left_out)
  golden.assert_value(strict.mean, expected["mean_at_0p1"])


def test_pck_of_the_torso():
  truth = np.array([[[0, 0], [30, 40], [9, 9]]] * 3, float)
  labelled = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1]], bool)
  of_figures = [
    Figure(
      picture=None,
      image_id=1,
      joints=joints,
      visible=visible,
      box=np.array([0, 0, 20, 80.0]),
      center=np.zeros(2),
      scale=1.0,
      area=1.0,
    )
    for joints, visible in zip(truth, labelled, strict=True)
  ]
  lengths = np.array([torso_length(f, (0, 1)) for f in of_figures])
  golden.assert_value(lengths, [50, 50, 80])
  assert [torso_length(f, ()) for f in of_figures] == [80] * 3
  points = truth + np.array([[[10, 0], [0, 0], [11, 0]]])
  result = keypoint_metrics.pck(points, truth, labelled, lengths, 0.2)
  golden.assert_value(result.per_joint, [100, 100, 50])
  golden.assert_value(result.mean, 100 * 6 / 7)


def test_two_findings_at_one_place_are_one():
  """Of the first image's figures both are found where the first is."""
  truth = np.array([[[10, 10], [30, 50]], [[200, 10], [220, 50]]] * 2, float)
  points = truth[[0, 0, 2, 3]]
  points[1] += 0.1
  ones = np.ones(4)
  rows = {
    "points": points,
    "truth": truth,
    "peak": np.array([[0.9] * 2, [0.8] * 2, [0.7] * 2, [0.6] * 2]),
    "visible": np.full((4, 2), 2),
    "image_id": np.array([1, 1, 2, 2]),
    "box": np.array([[0, 0, 40, 60.0]] * 4),
    "area": 1200 * ones,
    "crop_area": 4000 * ones,
    "score": ones,
    "head": ones,
    "torso": ones,
    "beside": np.zeros((4, 0, 6)),
  }
  known = KeypointInfo(pairs=(), bones=(), sigmas=(0.1, 0.1))
  # Three of four, without a wrong one among them: 76 of the 101 recalls.
  found = keypoint_figures.measured(rows, known)
  assert found["ap"] == pytest.approx(76 / 101) and found["ar"] == 0.75


def test_a_detector_is_measured_by_what_it_found():
  """Two people; one is found twice, apart, and a third one is no person."""
  truth = np.array([[[10, 10], [30, 50]], [[200, 10], [220, 50]]] * 2, float)
  truth = np.concatenate([truth[:2], np.zeros((3, 2, 2))])
  points = np.concatenate([truth[[1, 1, 0]], [truth[0] + 900, truth[0] + 500]])
  nan, one = np.nan, np.ones(5)
  rows = {
    "points": points,
    "truth": truth,
    "peak": np.full((5, 2), 0.5),
    "visible": np.array([[2, 2], [2, 1], [0, 0], [0, 0], [0, 0]]),
    "image_id": np.ones(5),
    "box": np.array([[0, 0, 40, 60.0]] * 5),
    "area": 1200 * one,
    "crop_area": 4000 * one,
    "score": np.array([nan, nan, 0.2, 0.9, 0.1]),
    "head": nan * one,
    "torso": 40 * one,
    "beside": np.zeros((5, 0, 6)),
  }
  known = KeypointInfo(pairs=(), bones=(), sigmas=(0.1, 0.1))
  found = keypoint_figures.measured(rows, known)
  # The first is found, after one wrong one: half of it up to a recall of one
  # half, 51 of the 101. What is made of annotated boxes counts for PCK alone.
  assert found["ap"] == pytest.approx(51 / 101 / 2) and found["ar"] == 0.5
  assert found["pck"] == 0.5
  rows["peak"][2:] = 0
  assert keypoint_figures.measured(rows, known)["ar"] == 0.5


def test_joint_without_a_label_has_no_share():
  zeros = np.zeros((2, 2, 2))
  labelled = np.array([[1, 0], [1, 0]], bool)
  result = keypoint_metrics.pck(zeros, zeros, labelled, np.ones(2), 0.5)
  np.testing.assert_array_equal(result.per_joint, [100, np.nan])
  assert result.mean == 100


def coco():
  case = golden.case("pose", "coco_oks_ap")
  inputs = case["inputs"]
  return (
    inputs["ground_truth"]["annotations"],
    inputs["detections"],
    case["expected"],
  )


def test_oks():
  annotations, detections, expected = coco()
  for image, matrix in expected["oks_per_image"].items():
    of_image = [d for d in detections if d["image_id"] == int(image)]
    golden.assert_value(
      keypoint_oks.oks(
        sorted(of_image, key=lambda d: -d["score"]),
        [a for a in annotations if a["image_id"] == int(image)],
      ),
      matrix,
    )


def test_average_precision():
  annotations, detections, expected = coco()
  figures = keypoint_oks.oks_figures(annotations, detections)
  assert list(figures) == list(expected["stats"])
  assert figures == pytest.approx(expected["stats"], rel=1e-10)
  precision, recall = keypoint_oks.precision_and_recall(
    annotations,
    detections,
    keypoint_metrics.COCO_SIGMAS,
    keypoint_oks.AREAS["all"],
  )
  golden.assert_value(
    precision[0], expected["precision_at_101_recalls_iou50_all"]
  )
  golden.assert_value(recall, expected["recall_per_iou_all"])


def test_what_falls_on_people_without_a_label_is_no_mistake():
  """The file and the figures of pycocotools, from rows of examples."""
  annotations, detections, expected = coco()
  people = [a for a in annotations if a["num_keypoints"]]
  (other,) = [a for a in annotations if not a["num_keypoints"]]
  of_people = np.array([a["keypoints"] for a in people]).reshape(-1, 17, 3)
  found = np.array([d["keypoints"] for d in detections]).reshape(-1, 17, 3)
  none, one = np.zeros_like(found), np.ones(len(people) + len(found))
  records = [*people, *detections]
  beside = np.full((len(records), 2, 6), np.nan)
  (row,) = [i for i, r in enumerate(records) if r.get("score") == 0.8829]
  beside[row, 0] = *other["bbox"], other["area"], 0
  truth = np.concatenate([of_people, none])
  rows = {
    "points": np.concatenate([of_people, found])[..., :2],
    "truth": truth[..., :2],
    "visible": truth[..., 2],
    # Scores are those of the file, and no detection is dropped for another.
    "peak": np.ones(truth.shape[:2]),
    "crop_area": 1e-9 * one,
    "image_id": np.array([r["image_id"] for r in records]),
    "box": np.array([r.get("bbox", [0] * 4) for r in records]),
    "area": np.array([r.get("area", 0) for r in records]),
    "score": np.array([r.get("score", np.nan) for r in records]),
    "head": np.nan * one,
    "torso": one,
    "beside": beside,
  }
  sigmas = tuple(keypoint_metrics.COCO_SIGMAS)
  known = KeypointInfo(pairs=(), bones=(), sigmas=sigmas)
  figures = keypoint_figures.measured(rows, known)
  for name, value in expected["stats"].items():
    assert figures[name.lower()] == pytest.approx(value, rel=1e-10)
  assert other["image_id"] == records[row]["image_id"]
  without = rows | {"beside": beside[:, :0]}
  assert keypoint_figures.measured(without, known)["ap"] < figures["ap"]


class Counted(dict):
  """Counts how often its image is asked for."""

  asked = 0

  def __getitem__(self, key):
    Counted.asked += key == "image_id"
    return super().__getitem__(key)


def test_records_are_grouped_by_image_once():
  """And their order between images plays no part."""
  annotations, detections, expected = coco()
  apart = [sorted(r, key=lambda x: -x["image_id"]) for r in coco()[:2]]
  assert keypoint_oks.oks_figures(*apart) == keypoint_oks.oks_figures(
    annotations, detections
  )
  counted = [[Counted(r) for r in records] for records in apart]
  Counted.asked = 0
  figures = keypoint_oks.oks_figures(*counted)
  assert figures == pytest.approx(expected["stats"], rel=1e-10)
  # Once a record for each range of areas.
  count = len(annotations) + len(detections)
  assert Counted.asked == len(keypoint_oks.AREAS) * count


def test_sizes_without_an_annotation():
  annotations, detections, _ = coco()
  small = [a | {"area": 100.0} for a in annotations]
  figures = keypoint_oks.oks_figures(small, detections)
  assert figures["APM"] == figures["APL"] == figures["ARL"] == -1
  assert figures["AP"] >= 0


def test_no_detections_score_nothing():
  annotations, _, _ = coco()
  figures = keypoint_oks.oks_figures(annotations, [])
  assert set(figures.values()) == {0.0}


def test_a_crowd_is_matched_again_and_costs_nothing():
  annotations, _, _ = coco()
  truth = annotations[0]
  crowd = truth | {"iscrowd": 1, "image_id": 9}
  detections = [
    {"image_id": image, "keypoints": truth["keypoints"], "score": score}
    for image, score in ((1, 0.5), (9, 0.9), (9, 0.8))
  ]
  figures = keypoint_oks.oks_figures([truth, crowd], detections)
  golden.assert_value([figures["AP"], figures["AR"]], [1, 1])


def test_suppression_and_scores():
  case = golden.case("pose", "oks_nms_and_rescoring")
  inputs, expected = case["inputs"], case["expected"]
  keypoints = np.array(inputs["keypoints"])
  scores, areas = np.array(inputs["box_scores"]), np.array(inputs["areas"])
  matrix = [
    [
      np.mean(
        keypoint_metrics.similarity(
          keypoints[i, :, :2],
          keypoints[j, :, :2],
          (areas[i] + areas[j]) / 2,
          keypoint_metrics.COCO_SIGMAS,
        )
      )
      for j in range(4)
    ]
    for i in range(4)
  ]
  golden.assert_value(matrix, expected["oks_matrix"])
  for threshold, keep in expected["keep"].items():
    assert keep == keypoint_metrics.suppress(
      keypoints[..., :2], scores, areas, float(threshold)
    )
  golden.assert_value(
    keypoint_metrics.rescore(keypoints[..., 2], scores, inputs["in_vis_thre"]),
    expected["rescored"],
  )


@pytest.mark.parametrize(("largest", "keep"), [(0.85, [0, 1]), (0.83, [0])])
def test_two_figures_are_compared_by_their_mean_area(largest, keep):
  # By hand: exp(-1 / (2 (2 / 10)^2 a)) is 0.848 with the mean a of 26 and 126.
  points = np.array([[[0.0, 0.0]], [[1.0, 0.0]]])
  arguments = points, np.array([0.9, 0.8]), np.array([26.0, 126.0])
  assert keep == keypoint_metrics.suppress(*arguments, largest, np.array([0.1]))


def test_limits_of_suppression_and_confidence_are_allowed():
  points, ones = np.zeros((2, 1, 2)), np.ones(2)
  sigmas = np.array([0.1])
  # Equal figures have an OKS of 1, however small they are.
  for areas in (ones, 0 * ones):
    for largest, keep in ((1.0, [0, 1]), (0.99, [0])):
      assert keep == keypoint_metrics.suppress(
        points, ones, areas, largest, sigmas
      )
  # As in the published code, a confidence of just 0.2 is not above it.
  scores = keypoint_metrics.rescore(np.array([[0.2, 0.25, 0.5]]), np.ones(1))
  golden.assert_value(scores, [0.375])


def person(x, *, y=0.0, size=0.0, image=1, **more):
  """A person, or what is found, of two joints on the corners of a square."""
  joints = [x, y, 2, x + size, y + size, 2]
  known = {"num_keypoints": 2, "bbox": [x, y, size, size], "area": 5000.0}
  return {"image_id": image, "keypoints": joints, **known, **more}


def figures_of(truths, found):
  # The OKS of joints at a distance d from the truth is exp(-d^2 / 2 area).
  return keypoint_oks.oks_figures(truths, found, np.full(2, 0.5))


@pytest.mark.parametrize(("num_wrong", "recall"), [(19, 1), (20, 0)])
def test_twenty_findings_of_an_image_count(num_wrong, recall):
  wrong = [person(9e3, score=0.9)] * num_wrong
  figures = figures_of([person(0.0)], [*wrong, person(0.0, score=0.1)])
  assert figures["AR"] == recall


def test_an_oks_counts_up_to_its_threshold():
  truth = person(0.0, area=1.0)
  near = person((-2 * np.log(0.72)) ** 0.5, score=1.0)  # an OKS of 0.72
  figures = figures_of([truth], [near])
  for name, value in (("", 0.5), ("50", 1), ("75", 0)):
    golden.assert_value([figures[f"A{x}{name}"] for x in "PR"], [value] * 2)
  half = person(0.0, size=9e3, score=1.0)  # one joint is exact: just 0.5
  figures = figures_of([truth], [half])
  golden.assert_value([figures["AP50"], figures["AR"]], [1, 0.1])


def test_findings_in_an_image_without_people_are_wrong():
  found = [person(0.0, score=0.5), person(0.0, image=7, score=0.9)]
  figures = figures_of([person(0.0)], found)
  golden.assert_value([figures["AP"], figures["AR"]], [0.5, 1])


def test_of_equally_similar_people_the_last_is_found():
  """So that the second finding, which fits it alone, has none left."""
  left, right = person(-1.0, area=1.0), person(1.0, area=1.0)
  found = [person(0.0, score=0.9), person(2.0, score=0.8)]
  assert figures_of([left, right], found)["AR50"] == 0.5
  assert figures_of([right, left], found)["AR50"] == 1


def test_a_person_that_counts_goes_before_one_that_does_not():
  crowd = person(0.0, iscrowd=1)
  figures = figures_of([crowd, person(1.0)], [person(0.0, score=1.0)])
  golden.assert_value([figures["AP"], figures["AR"]], [1, 1])


def test_findings_of_equal_score_stay_in_the_order_of_their_images():
  truths = [person(0.0, image=image) for image in range(60)]
  found = [
    person(
      9e3 if 20 <= image < 40 else 0.0,
      image=image,
      score=0.5 if image < 40 else 0.9,
    )
    for image in range(60)
  ]
  # Two thirds of the people, or 67 of the 101 recalls, before a wrong one.
  assert figures_of(truths, found)["AP"] == pytest.approx(67 / 101)


@pytest.mark.parametrize(("size", "sizes"), [(32.0, "M"), (96.0, "ML")])
def test_both_ends_belong_to_a_range_of_sizes(size, sizes):
  truth = person(0.0, size=size, area=size**2)
  right = person(0.0, size=size, score=0.5)
  wrong = person(9e3, size=size, score=0.9)
  figures = figures_of([truth], [right, wrong])
  for name in sizes:
    golden.assert_value([figures[f"AP{name}"], figures[f"AR{name}"]], [0.5, 1])
