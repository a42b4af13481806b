"""SwitOKD on scikit-learn's digits, ResNet-20 and ResNet-8.

Reproduces no published figure. Teachers are named first and the student last.
Variants: "1t2s" and "2t1s", with a ResNet-32 besides, and one teacher or two.

    python main.py --config=configs/switokd_digits.py
"""

from configs import common, switokd_c100


def get_config(words: str = ""):
  config = common.digits(common.base())
  words = switokd_c100.roles(config, words, "resnet32", "resnet20", "resnet8")
  return common.variant(config, words)
