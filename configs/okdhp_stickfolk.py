"""OKDHP on drawn figures: one shared stack and three branches of one each.

Reproduces no published figure. `:short` is made for about three minutes on two
CPU cores. Its first branch had a PCKh@0.5 of 64.8 (one seed), where a guess
without a look has 21.8 and the targets themselves 98.0, and a PCK@0.2 of 80.9,
where the guess has 39.3.

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
    config.epochs = 5
  return common.variant(config, words)
