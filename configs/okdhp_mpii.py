r"""OKDHP on MPII (Li et al., ICCV 2021): three branches of an hourglass.

Published PCKh@0.5 on the validation data: 89.2 (2 stacks), 90.0 (4), 90.6 (8),
and 90.2 for branches of 4, 6 and 8 stacks of which the first counts; without
distillation 88.6, 89.2 and 90.2. Those are of the best branch at the best
epoch. Variants: hourglass2, hourglass8, and "unbalanced".

Reads annot/{train,valid}.json, annot/gt_valid.mat and images in
config.data.dir, see docs/keypoints.md. Channels are in the order RGB.

    python main.py --config=configs/okdhp_mpii.py:hourglass4 \
      --config.data.dir=/data/mpii --config.precision=bfloat16
"""

from configs import common


def get_config(words: str = ""):
  words, unbalanced = common.take(words, "unbalanced")
  config = common.pose(common.base())
  config.data.name = "mpii"
  config.data.image_size = 256
  config.epochs = 150
  config.optim.drops = (90 / 150, 120 / 150)
  config.rampup_epochs = 90
  config.method = common.method("okdhp", kd_weight=2.0)
  config.peers.kind = "branches"
  config.peers.num_peers = 3
  if "hourglass8" in words.split(","):
    config.optim.drops = (120 / 150, 140 / 150)
  if unbalanced:
    config.peers.net = "hourglass4,hourglass6,hourglass8"
    config.peers.split = 2
  return common.variant(config, words)
