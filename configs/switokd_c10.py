"""SwitOKD on CIFAR-10, WRN-16-8 and WRN-16-1 (Qian et al., ECCV 2022).

Published top-1 accuracy in % of the student, mean of three runs, best epoch on
test data: 92.50 +- 0.17 (Table 4). Teachers are named first and the student
last. Variants: "1t2s" and "2t1s", of WRN-16-8, WRN-16-2 and WRN-16-1 with one
teacher or two, of which nothing is published.

    python main.py --config=configs/switokd_c10.py
"""

from configs import common, switokd_c100


def get_config(words: str = ""):
  config = common.cifar(common.base(), "cifar10")
  words = switokd_c100.roles(config, words, "wrn16_8", "wrn16_2", "wrn16_1")
  if config.peers.num_peers == 2:
    config.peers.net = "wrn16_8,wrn16_1"
  config.epochs = 299
  config.optim.nesterov = False
  config.optim.drops = tuple(e / 299 for e in (100, 150, 200))
  return common.variant(config, words)
