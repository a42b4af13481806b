r"""CTKD on CIFAR-100, WRN-16-1 with WRN-40-1 (Zhao et al., 2019).

Reproduces no published figure: the networks of the paper's tables could not be
found. The expert is a trained WRN-40-1, as configs/independent_c100.py:wrn40_1
trains it, or a PyTorch state dict. Variants, besides networks: "ce" is without
hint and attention, "hint" and "attention" have one of them; "replicas" shares
no convolution between student and teacher.

    python main.py --config=configs/ctkd_c100.py \
        --config.teacher=RUN
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.peers.net = "wrn16_1,wrn40_1"
  config.epochs = 200
  config.optim.nesterov = False
  # At the start of epochs 60, 120 and 160, counted from 1.
  config.optim.drops = (59 / 200, 119 / 200, 159 / 200)
  config.optim.factor = 0.2
  config.pad_mode = "symmetric"
  return preset(config, words)


def preset(config, words: str):
  """Makes the peers a student and its teacher, with the losses of `words`."""
  config.method = common.method("ctkd")
  config.peers.num_peers = 2
  config.peers.kind = "branches"
  config.peers.split = -1
  words, neither = common.take(words, "ce")
  words, hint = common.take(words, "hint")
  words, attention = common.take(words, "attention")
  if neither or attention:
    config.method.hint_weight = 0.0
  if neither or hint:
    config.method.attention_weight = 0.0
  return common.variant(config, words)
