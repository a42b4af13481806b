"""Drawn figures show what the pages say."""

import types

import numpy as np

from okd_jax.cli import keypoint_data
from okd_jax.tasks import keypoint_drawing


def test_left_and_right_joints_can_be_told_apart():
  points = np.array([[2.0, 2.0], [12.0, 2.0], [7.0, 12.0], [2.0, 12.0]])
  picture = keypoint_drawing.with_sides(
    np.zeros((16, 16, 3), np.uint8),
    points,
    np.array([1.0, 1.0, 1.0, 0.0]),
    bones=[(0, 2), (1, 2)],
    pairs=[(0, 1)],
  )
  assert picture.size == (128, 128)
  places = (8 * (points + 0.5)).astype(int)
  colours = [picture.getpixel(tuple(place.tolist())) for place in places]
  assert colours == [
    keypoint_drawing.LEFT,
    keypoint_drawing.RIGHT,
    keypoint_drawing.FOUND.joint,
    (0, 0, 0),
  ]


def test_sides_are_those_of_the_names():
  found = types.SimpleNamespace(
    names=("right_ear", "left_ear", "paw_a", "paw_b"),
    info=types.SimpleNamespace(pairs=((0, 1), (2, 3))),
  )
  assert keypoint_data._left_first(found) == [(1, 0), (2, 3)]
