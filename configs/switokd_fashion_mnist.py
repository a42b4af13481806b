"""SwitOKD on Fashion-MNIST, ResNet-56 and ResNet-20.

Reproduces no published figure. Teachers are named first and the student last.
Variants: "1t2s" and "2t1s", with a ResNet-110 besides, and one teacher or two.

    python main.py --config=configs/switokd_fashion_mnist.py
"""

from configs import common, switokd_c100


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  words = switokd_c100.roles(config, words, "resnet110", "resnet56", "resnet20")
  return common.variant(config, words)
