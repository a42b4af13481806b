"""FFSD on Fashion-MNIST, two students and a leader of ResNet-20.

Reproduces no published figure.

    python main.py --config=configs/ffsd_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("ffsd")
  config.peers.num_peers = 3
  return common.variant(config, words)
