r"""OKDHP on COCO keypoints (Li et al., ICCV 2021), three branches.

Published OKS AP on val2017 with the annotators' boxes: 72.8 (2 stacks), 74.8
(4), 76.2 (8); without distillation 71.7, 73.6 and 75.3. The size of the input
of these figures is not known, and the published code cannot train on COCO as
it is: settings are those of its configuration file. Variants: hourglass2,
hourglass8.

Reads annotations/person_keypoints_{train,val}2017.json and images in
config.data.dir, see docs/keypoints.md.

    python main.py --config=configs/okdhp_coco.py:hourglass4 \
      --config.data.dir=/data/coco --config.precision=bfloat16
"""

from configs import common


def get_config(words: str = ""):
  config = common.pose(common.base())
  config.data.name = "coco_keypoints"
  config.data.image_size = 256
  config.data.keypoints.width = 192
  config.data.keypoints.scale = 0.3
  config.data.keypoints.rotation = 40.0
  config.epochs = 140
  config.optim.drops = (90 / 140, 120 / 140)
  config.rampup_epochs = 90
  config.method = common.method("okdhp", kd_weight=2.0)
  config.peers.kind = "branches"
  config.peers.num_peers = 3
  return common.variant(config, words)
