r"""KD on Fashion-MNIST, a ResNet-20 student.

Reproduces no published figure.

    python main.py --config=configs/kd_fashion_mnist.py \
        --config.teacher=RUN
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("kd")
  config.peers.num_peers = 1
  return common.variant(config, words)
