"""OKDHP on drawn figures: one shared stack and three branches of one each.

Reproduces no published figure. With `:short` it takes about three minutes on
two CPU cores, and the first branch finds half of the joints and more, where a
guess without a look finds a fifth.

    python main.py --config=configs/okdhp_stickfolk.py:short
"""

from configs import common


def get_config(words: str = ""):
  words, short = common.take(words, "short")
  config = common.stickfolk(common.base())
  config.method = common.method("okdhp", kd_weight=2.0)
  config.peers.kind = "branches"
  config.peers.net = "hourglass2_small"
  config.peers.num_peers = 3
  if short:
    config.epochs = 12
  return common.variant(config, words)
