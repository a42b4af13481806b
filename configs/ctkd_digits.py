r"""CTKD on scikit-learn's digits, ResNet-8 with ResNet-20.

Reproduces no published figure. Variants as in configs/ctkd_c100.py.

    python main.py --config=configs/ctkd_digits.py \
        --config.teacher=RUN
"""

from configs import common, ctkd_c100

# The distance is a mean over positions of maps of length 1, of which small
# images have a sixteenth: it is as many times as large.
SMALLER = 16


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.peers.net = "resnet8,resnet20"
  config = ctkd_c100.preset(config, words)
  config.method.attention_weight /= SMALLER
  return config
