"""Geometry of keypoints against the published vectors, in float64."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax.data.keypoints import boxes as keypoint_boxes
from okd_jax.tasks import keypoint_maps


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def pairs_of(case):
  """Inputs and expectations, where a case is a list of them."""
  return list(zip(case["inputs"], case["expected"], strict=True))


def joints_last(maps):
  return np.moveaxis(np.array(maps), 0, -1)


def test_matrices_of_crops():
  case = golden.case("pose", "affine")
  for k, inputs in enumerate(case["inputs"]):
    crop = (
      np.array(inputs["center"]),
      np.array(inputs["scale"]),
      inputs["rot_deg"],
      tuple(inputs["out_wh"]),
    )
    forward = keypoint_maps.crop_matrix(*crop)
    golden.assert_value(forward, case["expected"]["forward"][k])
    golden.assert_value(
      keypoint_maps.image_matrix(*crop), case["expected"]["inverse"][k]
    )
    golden.assert_value(
      keypoint_maps.transform(forward, np.array(inputs["points"])),
      case["expected"]["points_mapped"][k],
    )


def test_matrices_of_a_batch():
  rng = np.random.default_rng(0)
  center, scale = rng.uniform(50, 100, (5, 2)), rng.uniform(0.5, 2, (5, 2))
  rotation, points = rng.uniform(-60, 60, 5), rng.normal(size=(5, 3, 2))
  crop = center, scale, rotation, (48, 64)
  moved = keypoint_maps.transform(keypoint_maps.crop_matrix(*crop), points)
  back = keypoint_maps.transform(keypoint_maps.image_matrix(*crop), moved)
  golden.assert_value(back, points)


def test_mirrored_joints():
  case = golden.case("pose", "flip_joints")
  inputs, expected = case["inputs"], case["expected"]
  joints, visible = keypoint_maps.flip_joints(
    jnp.array(inputs["joints"]),
    jnp.array(inputs["visible"]),
    inputs["width"],
    inputs["pairs"],
  )
  golden.assert_value(joints, expected["joints"])
  golden.assert_value(visible, expected["visible"])


def gaussian_cases():
  demo = golden.case("okdhp", "gaussian_target")
  inputs = {"joints": demo["inputs"]["joints_xy"], **demo["inputs"]}
  cases = pairs_of(golden.case("pose", "gaussian_targets"))
  return [*cases, (inputs, demo["expected"])]


@pytest.mark.parametrize("number", range(3))
def test_heat_maps(number):
  inputs, expected = gaussian_cases()[number]

  @golden.jit_once
  def targets(joints, visible):
    return keypoint_maps.heat_maps(
      joints,
      visible,
      tuple(inputs["image_wh"]),
      tuple(inputs["heatmap_wh"]),
      inputs["sigma"],
    )

  maps, weight = targets(
    np.array(inputs["joints"]), np.array(inputs["visible"])
  )
  golden.assert_value(maps, expected["target_HWJ"])
  golden.assert_value(weight, expected["target_weight"])


def test_joints_count_as_far_as_their_gaussian_reaches():
  """To the left and above one pixel more, as in the published code."""
  # Below 0, places are rounded up.
  columns = np.array([-6.0, -5, 18, 19])
  for joints in (
    np.stack([columns, 0 * columns], axis=-1),
    np.stack([0 * columns, columns], axis=-1),
  ):
    maps, weight = keypoint_maps.heat_maps(
      joints, np.ones(4), (16, 16), (16, 16), 1.0
    )
    golden.assert_value(weight, [0, 1, 1, 0])
    # Of the two that count, only that at 18 reaches a pixel.
    golden.assert_value(maps.max((0, 1)), [0, 0, np.exp(-4.5), 0])


def test_decode():
  case = golden.case("okdhp", "decode_quarter_offset")
  points, peak = golden.jit_once(keypoint_maps.decode)(
    np.array(case["inputs"]["maps"])
  )
  golden.assert_value(points, case["expected"]["xy"])
  golden.assert_value(peak, case["expected"]["maxval"])


def test_map_without_a_peak_decodes_to_the_corner():
  maps = jnp.full((6, 7, 2), -1.0).at[3, 4, 1].set(-0.5)
  points, peak = keypoint_maps.decode(maps)
  assert not points.any()
  golden.assert_value(peak, [-1, -0.5])


def test_first_of_equal_peaks_is_taken():
  maps = np.zeros((6, 7, 1))
  maps[3, 5], maps[3, 2], maps[4, 1] = 1, 1, 1
  points, _ = keypoint_maps.decode(maps)
  # The neighbour below is 0 as the one above, so that y stays.
  golden.assert_value(points, [[2, 3]])


def test_decode_to_image():
  case = golden.case("pose", "decode_to_image")
  inputs, expected = case["inputs"], case["expected"]
  maps = joints_last(inputs["heatmaps_JHW"])
  points, peak = golden.jit_once(keypoint_maps.decode_to_image)(
    maps, np.array(inputs["center"]), np.array(inputs["scale"])
  )
  golden.assert_value(keypoint_maps.decode(maps)[0], expected["xy_heatmap"])
  golden.assert_value(points, expected["xy_image"])
  golden.assert_value(peak, expected["maxval"])


@pytest.mark.parametrize("shift", [True, False])
def test_mirrored_maps(shift):
  case = golden.case("pose", "flip_test_merge")
  inputs = case["inputs"]
  merged = keypoint_maps.merge_mirrored(
    jnp.array(joints_last(inputs["map_JHW"])),
    jnp.array(joints_last(inputs["map_of_mirrored_image_JHW"])),
    inputs["pairs"],
    shift=shift,
  )
  name = "with_shift" if shift else "no_shift"
  golden.assert_value(merged, joints_last(case["expected"][name]))


def test_warp():
  case = golden.case("pose", "warp_bilinear_zero_border")
  inputs = case["inputs"]
  size = tuple(inputs["out_wh"])
  matrix = keypoint_maps.image_matrix(
    np.array(inputs["center"]),
    np.array(inputs["scale"]),
    inputs["rot_deg"],
    size,
  )
  crop = keypoint_maps.warp(np.array(inputs["image_HWC"]), matrix, size)
  golden.assert_value(crop, case["expected"]["image_HWC"])


def test_boxes_of_coco():
  for inputs, expected in pairs_of(golden.case("pose", "box_to_center_scale")):
    box = keypoint_boxes.clean_box(inputs["bbox"], inputs["image_wh"])
    golden.assert_value(box, expected["clean_bbox"])
    center, scale = keypoint_boxes.center_and_scale(
      box, inputs["aspect_w_over_h"]
    )
    golden.assert_value(center, expected["center"])
    golden.assert_value(scale, expected["scale"])


def test_box_outside_its_image_is_none():
  assert keypoint_boxes.clean_box([700, 10, 20, 20], (640, 480)) is None


def test_entries_of_mpii():
  for inputs, expected in pairs_of(golden.case("pose", "mpii_record")):
    center, scale = keypoint_boxes.mpii_center_and_scale(
      inputs["center"], inputs["scale"]
    )
    golden.assert_value(center, expected["center"])
    golden.assert_value(scale, expected["scale"])
