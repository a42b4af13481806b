"""MobileNetV2 and ShuffleNets in PyTorch, see torch_networks.py."""

import torch
from torch import nn
from torch.nn import functional as F


def conv(given, width, size, stride=1, *, bias=False, groups=1, dilation=1):
  padding = size // 2 * dilation
  return nn.Conv2d(
    given, width, size, stride, padding, dilation, groups, bias=bias
  )


def shuffle(x, groups):
  b, c, h, w = x.shape
  x = x.view(b, groups, c // groups, h, w).transpose(1, 2)
  return x.reshape(b, c, h, w)


def conv_bn_act(given, width, size, stride, act, groups=1):
  return (
    conv(given, width, size, stride, groups=groups),
    nn.BatchNorm2d(width),
    act(),
  )


class InvertedResidual(nn.Module):
  """As CRD has it, or with `nested` as torchvision has it."""

  def __init__(self, given, width, stride, expansion, nested):
    super().__init__()
    act = nn.ReLU6 if nested else nn.ReLU
    inner = given * expansion
    parts = [conv_bn_act(inner, inner, 3, stride, act, inner)]
    if expansion > 1 or not nested:
      parts.insert(0, conv_bn_act(given, inner, 1, 1, act))
    last = (conv(inner, width, 1), nn.BatchNorm2d(width))
    self.conv = nn.Sequential()
    for part in parts:
      self.conv.extend([nn.Sequential(*part)] if nested else part)
    self.conv.extend(last)

  def forward(self, x):
    y = self.conv(x)
    return x + y if x.shape == y.shape else y


class CrdMobileNet(nn.Module):
  def __init__(self, classes, widths, groups, head):
    super().__init__()
    given = widths[0]
    self.conv1 = nn.Sequential(*conv_bn_act(3, given, 3, 2, nn.ReLU))
    self.blocks = nn.ModuleList()
    for i, (width, count, stride) in enumerate(groups):
      self.blocks.append(nn.Sequential())
      for j in range(count):
        self.blocks[-1].append(
          InvertedResidual(
            given, width, 1 if j else stride, 6 if i else 1, False
          )
        )
        given = width
    self.conv2 = nn.Sequential(*conv_bn_act(given, head, 1, 1, nn.ReLU))
    self.classifier = nn.Sequential(nn.Linear(head, classes))

  def forward(self, x):
    x = self.conv1(x)
    for block in self.blocks:
      x = block(x)
    features = self.conv2(x).mean((2, 3))
    return features, self.classifier(features)


class TorchvisionMobileNet(nn.Module):
  def __init__(self, classes, widths, groups, head):
    super().__init__()
    given = widths[0]
    self.features = nn.Sequential(
      nn.Sequential(*conv_bn_act(3, given, 3, 2, nn.ReLU6))
    )
    for i, (width, count, stride) in enumerate(groups):
      for j in range(count):
        self.features.append(
          InvertedResidual(
            given, width, 1 if j else stride, 6 if i else 1, True
          )
        )
        given = width
    self.features.append(
      nn.Sequential(*conv_bn_act(given, head, 1, 1, nn.ReLU6))
    )
    self.classifier = nn.Sequential(nn.Dropout(0), nn.Linear(head, classes))

  def forward(self, x):
    features = self.features(x).mean((2, 3))
    return features, self.classifier(features)


class ShuffleBlockV1(nn.Module):
  def __init__(self, given, width, stride, groups):
    super().__init__()
    inner = width // 4
    self.first = 1 if given == 24 else groups
    self.conv1 = conv(given, inner, 1, groups=self.first)
    self.bn1 = nn.BatchNorm2d(inner)
    self.conv2 = conv(inner, inner, 3, stride, groups=inner)
    self.bn2 = nn.BatchNorm2d(inner)
    self.conv3 = conv(inner, width, 1, groups=groups)
    self.bn3 = nn.BatchNorm2d(width)
    self.stride = stride

  def forward(self, x):
    y = shuffle(F.relu(self.bn1(self.conv1(x))), self.first)
    y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
    if self.stride == 1:
      return F.relu(x + y)
    return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))


class ShuffleBlockV2(nn.Module):
  def __init__(self, given, width, stride):
    super().__init__()
    half = width // 2
    self.stride = stride
    shapes = [(half, half, 1), (half, half, 3), (half, half, 1)]
    if stride == 2:
      shapes[0] = (given, half, 1)
      shapes = [(given, given, 3), (given, half, 1), *shapes]
    for i, (a, b, size) in enumerate(shapes, 1):
      depthwise = size == 3
      setattr(
        self,
        f"conv{i}",
        conv(a, b, size, stride if depthwise else 1, groups=a**depthwise),
      )
      setattr(self, f"bn{i}", nn.BatchNorm2d(b))

  def _run(self, x, *numbers):
    for i in numbers:
      layer = getattr(self, f"conv{i}")
      x = getattr(self, f"bn{i}")(layer(x))
      x = F.relu(x) if layer.kernel_size == (1, 1) else x
    return x

  def forward(self, x):
    if self.stride == 2:
      y = self._run(x, 1, 2), self._run(x, 3, 4, 5)
    else:
      kept, y = x.chunk(2, 1)
      y = kept, self._run(y, 1, 2, 3)
    return shuffle(torch.cat(y, 1), 2)


class ShuffleNet(nn.Module):
  def __init__(self, classes, widths, blocks, stem, head, block):
    super().__init__()
    self.conv1, self.bn1 = conv(3, 24, stem), nn.BatchNorm2d(24)
    given = 24
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
      layer = nn.Sequential()
      for j in range(count):
        layer.append(block(given, width, 1 if j else 2))
        given = width
      setattr(self, f"layer{i}", layer)
    if head:
      self.conv2, self.bn2 = conv(given, head, 1), nn.BatchNorm2d(head)
    self.stages, self.head = len(widths), head
    self.linear = nn.Linear(head or given, classes)

  def forward(self, x):
    x = F.relu(self.bn1(self.conv1(x)))
    for i in range(self.stages):
      x = getattr(self, f"layer{i + 1}")(x)
    if self.head:
      x = F.relu(self.bn2(self.conv2(x)))
    features = x.mean((2, 3))
    return features, self.linear(features)


def shuffle_block_v1(groups):
  def block(given, width, stride):
    shortcut = given if stride == 2 else 0
    return ShuffleBlockV1(given, width - shortcut, stride, groups)

  return block
