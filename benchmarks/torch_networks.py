"""Writes tests/vectors/networks.json: small networks of each family in PyTorch.

    python -m benchmarks.torch_networks

The modules declare their layers in the order and under the names of the public
code that people have weights of: CRD and mdistiller (wide ResNets, MobileNetV2,
ShuffleNets, VGG), HCGNet, and OKDHP (hourglasses). They are written from the
papers, and as small as the rules of a family allow.
"""

import json
from pathlib import Path
import sys

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.torch_gated import HcgNet, HourglassNet
from benchmarks.torch_mobile import (
  conv,
  CrdMobileNet,
  shuffle_block_v1,
  ShuffleBlockV2,
  ShuffleNet,
  TorchvisionMobileNet,
)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import fingerprints  # noqa: E402


class WideBlock(nn.Module):
  def __init__(self, given, width, stride):
    super().__init__()
    self.bn1, self.conv1 = nn.BatchNorm2d(given), conv(given, width, 3, stride)
    self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
    if given != width:
      self.convShortcut = conv(given, width, 1, stride)

  def forward(self, x):
    active = F.relu(self.bn1(x))
    y = self.conv2(F.relu(self.bn2(self.conv1(active))))
    return y + (self.convShortcut(active) if x.shape != y.shape else x)


class WideResNet(nn.Module):
  def __init__(self, classes, blocks, widen):
    super().__init__()
    self.conv1 = conv(3, 16, 3)
    given = 16
    for i in (1, 2, 3):
      width = 2 ** (3 + i) * widen
      layer = nn.ModuleDict({"layer": nn.Sequential()})
      for j in range(blocks):
        stride = 2 if i > 1 and j == 0 else 1
        layer["layer"].append(WideBlock(given, width, stride))
        given = width
      setattr(self, f"block{i}", layer)
    self.bn1, self.fc = nn.BatchNorm2d(given), nn.Linear(given, classes)

  def forward(self, x):
    x = self.conv1(x)
    for block in (self.block1, self.block2, self.block3):
      x = block["layer"](x)
    features = F.relu(self.bn1(x)).mean((2, 3))
    return features, self.fc(features)


class Vgg(nn.Module):
  def __init__(self, classes, widths, pools):
    super().__init__()
    given = 3
    for i, group in enumerate(widths):
      block = nn.Sequential()
      for width in group:
        block.append(conv(given, width, 3, bias=True))
        block.append(nn.BatchNorm2d(width))
        block.append(nn.ReLU())
        given = width
      setattr(self, f"block{i}", block)
    self.pools, self.classifier = pools, nn.Linear(given, classes)

  def forward(self, x):
    for i in range(5):
      x = getattr(self, f"block{i}")(x)
      x = F.max_pool2d(x, 2) if i < self.pools else x
    features = x.mean((2, 3))
    return features, self.classifier(features)


# Each with the side of its images.
NETWORKS = {
  "wide_resnet": (WideResNet(5, 1, 2), 8),
  "mobilenet_crd": (
    CrdMobileNet(5, (8,), ((4, 1, 1), (6, 2, 1), (8, 1, 2)), 1280),
    16,
  ),
  "mobilenet_torchvision": (
    TorchvisionMobileNet(5, (16,), ((8, 1, 1), (16, 2, 2)), 1280),
    16,
  ),
  "shufflenet_v1": (
    ShuffleNet(5, (36, 48), (2, 1), 1, 0, shuffle_block_v1(3)),
    16,
  ),
  "shufflenet_v2": (
    ShuffleNet(5, (12, 16), (2, 1), 3, 1024, ShuffleBlockV2),
    16,
  ),
  "vgg": (Vgg(5, ((4, 4), (4,), (8,), (8,), (8,)), 3), 16),
  "hcgnet": (HcgNet(5, (1, 1), (4, 4)), 8),
  "hourglass": (HourglassNet(3, 16, 2, 2), 32),
}
_KINDS = {nn.Conv2d: "conv", nn.Linear: "linear"}


def layers_of(net):
  """[index, name, kind, shape, bias] of every layer, as declared."""
  found = []
  for name, module in net.named_modules():
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
      found.append([len(found), name, "bn", list(module.weight.shape), True])
    elif type(module) in _KINDS:
      shape = list(module.weight.shape)
      bias = module.bias is not None
      found.append([len(found), name, _KINDS[type(module)], shape, bias])
  return found


def case(net, size):
  """Layers, some features and the outputs of a training pass in float64."""
  layers = layers_of(net)
  state = {
    name: torch.from_numpy(value)
    for name, value in fingerprints.state_dict(layers).items()
  }
  net.double().load_state_dict(state)
  assert list(net.state_dict()) == list(state)
  images = torch.from_numpy(fingerprints.images(4, size)).permute(0, 3, 1, 2)
  with torch.no_grad():
    features, outputs = net.train()(images)
  return {
    "layers": layers,
    "size": size,
    "features": features[:, :16].tolist(),
    "outputs": outputs.tolist(),
  }


def main():
  cases = {name: case(*made) for name, made in NETWORKS.items()}
  path = ROOT / "tests" / "vectors" / "networks.json"
  path.write_text(json.dumps(cases))


if __name__ == "__main__":
  main()
