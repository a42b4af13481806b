"""FFL on Fashion-MNIST, two ResNet-20 branches.

Reproduces no published figure.

    python main.py --config=configs/ffl_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("ffl")
  config.peers.kind = "branches"
  config.peers.num_peers = 2
  return common.variant(config, words)
