r"""KD on scikit-learn's digits, a ResNet-8 student.

Reproduces no published figure.

    python main.py --config=configs/kd_digits.py \
        --config.teacher=RUN
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("kd")
  config.peers.num_peers = 1
  return common.variant(config, words)
