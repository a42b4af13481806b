"""The 16 joints of MPII."""

from okd_jax.data.keypoints.info import KeypointInfo

NAMES = (
  "right_ankle",
  "right_knee",
  "right_hip",
  "left_hip",
  "left_knee",
  "left_ankle",
  "pelvis",
  "thorax",
  "upper_neck",
  "head_top",
  "right_wrist",
  "right_elbow",
  "right_shoulder",
  "left_shoulder",
  "left_elbow",
  "left_wrist",
)
INFO = KeypointInfo(
  pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
  bones=(
    *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8)),
    *((8, 9), (10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15)),
  ),
  # MPII publishes none, and no areas, so there is no OKS.
  sigmas=(),
  torso=(3, 12),
  mpii=True,
)
