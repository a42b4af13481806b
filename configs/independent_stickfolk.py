"""One hourglass of two stacks alone on drawn figures.

Reproduces no published figure; what `okdhp_stickfolk` is to be compared with.

    python main.py --config=configs/independent_stickfolk.py:short
"""

from configs import common


def get_config(words: str = ""):
  words, short = common.take(words, "short")
  config = common.stickfolk(common.base())
  config.method = common.method("independent")
  config.peers.net = "hourglass2_small"
  config.peers.num_peers = 1
  if short:
    config.epochs = 5
  return common.variant(config, words)
