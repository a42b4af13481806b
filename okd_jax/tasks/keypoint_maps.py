"""Geometry of keypoints: crops, heat maps, and points read from them.

Images have x to the right and y down, the centre of the first pixel is (0, 0),
sizes are (width, height), maps [h, w, J]. The conventions, for example a size
of w and not w - 1, are those of the published code, so that figures can be
compared. All functions take arrays with any leading axes, and may be compiled.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from okd_jax.core import Array
from okd_jax.data.keypoints.boxes import SCALE_UNIT, Size


def crop_matrix(
  center: Array, scale: Array, rotation: Array | float, out_size: Size
) -> Array:
  """From image to crop.

  Args:
    center: centre of the crop in the image, float [..., 2].
    scale: size of the box in units of 200 pixels, float [..., 2]; only the
      width is used, so that nothing is stretched.
    rotation: degrees [...] by which the content turns counter-clockwise.
    out_size: size of the crop.

  Returns:
    Matrices [..., 2, 3] for `transform`.
  """
  zoom = out_size[0] / (SCALE_UNIT * scale[..., 0])
  linear = _rotation(rotation, zoom)
  return _around(linear, center, _middle(out_size, center.dtype))


def image_matrix(
  center: Array, scale: Array, rotation: Array | float, out_size: Size
) -> Array:
  """From crop to image: the inverse of `crop_matrix`."""
  zoom = SCALE_UNIT * scale[..., 0] / out_size[0]
  linear = _rotation(-jnp.asarray(rotation), zoom)
  return _around(linear, _middle(out_size, center.dtype), center)


def _rotation(degrees, zoom):
  angle = jnp.deg2rad(jnp.asarray(degrees, zoom.dtype))
  cos, sin = zoom * jnp.cos(angle), zoom * jnp.sin(angle)
  rows = jnp.stack([cos, sin], axis=-1), jnp.stack([-sin, cos], axis=-1)
  return jnp.stack(rows, axis=-2)


def _middle(size, dtype):
  return jnp.asarray(size, dtype) / 2


def _around(linear, source, target):
  """The map with this linear part that brings source to target."""
  moved = jnp.sum(linear * source[..., None, :], axis=-1)
  return jnp.concatenate([linear, (target - moved)[..., None]], axis=-1)


def transform(matrix: Array, points: Array) -> Array:
  """Points [..., N, 2] through matrices [..., 2, 3]."""
  linear, shift = matrix[..., :2], matrix[..., 2]
  turned = jnp.sum(linear[..., None, :, :] * points[..., None, :], axis=-1)
  return turned + shift[..., None, :]


def warp(image: Array, matrix: Array, out_size: Size) -> Array:
  """One crop of an image, bilinear, black outside.

  Args:
    image: [H, W, D].
    matrix: from crop to image, [2, 3], see `image_matrix`.
    out_size: size of the crop.

  Returns:
    [h, w, D], of the matrix's dtype.
  """
  width, height = out_size
  grid = jnp.meshgrid(jnp.arange(width), jnp.arange(height))
  points = jnp.stack(grid, axis=-1).astype(matrix.dtype).reshape(-1, 2)
  x, y = transform(matrix, points).T
  left, top = jnp.floor(x), jnp.floor(y)
  across, down = x - left, y - top
  left, top = left.astype(jnp.int32), top.astype(jnp.int32)
  rows, columns, channels = image.shape
  flat = image.reshape(rows * columns, channels)

  def corner(column, row, share):
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    at = jnp.where(inside, row * columns + column, 0)
    return jnp.where(inside, share, 0)[:, None] * flat[at].astype(x.dtype)

  values = (
    corner(left, top, (1 - across) * (1 - down))
    + corner(left + 1, top, across * (1 - down))
    + corner(left, top + 1, (1 - across) * down)
    + corner(left + 1, top + 1, across * down)
  )
  return values.reshape(height, width, channels)


def swap_pairs(num_joints: int, pairs: Sequence[Size]) -> tuple[int, ...]:
  """For every joint, the one that takes its place when mirrored."""
  order = list(range(num_joints))
  for left, right in pairs:
    order[left], order[right] = right, left
  return tuple(order)


def flip_joints(
  joints: Array, visible: Array, width: Array | int, pairs: Sequence[Size]
) -> tuple[Array, Array]:
  """Joints of the mirrored image; those that are not labelled become zero.

  Args:
    joints: float [..., J, 2].
    visible: 0 where not labelled, [..., J].
    width: width of the image.
    pairs: pairs of joints that change places.
  """
  order = jnp.asarray(swap_pairs(joints.shape[-2], pairs))
  mirrored = joints.at[..., 0].set(width - 1 - joints[..., 0])
  visible = visible[..., order]
  return jnp.where(visible[..., None] > 0, mirrored[..., order, :], 0), visible


def heat_maps(
  joints: Array, visible: Array, image_size: Size, map_size: Size, sigma: float
) -> tuple[Array, Array]:
  """Targets: a Gaussian of peak 1 at every labelled joint, cut at 3 sigma.

  Args:
    joints: in pixels of the crop, float [..., J, 2].
    visible: 0 where not labelled, [..., J].
    image_size: size of the crop.
    map_size: size of the maps.
    sigma: standard deviation of the Gaussian, in pixels of a map.

  Returns:
    Maps [..., h, w, J], and weights [..., J]: 0 for joints that are not
    labelled, or lie outside by more than the Gaussian reaches.
  """
  size = jnp.asarray(map_size, joints.dtype)
  stride = jnp.asarray(image_size, joints.dtype) / size
  # Towards zero, as the published code rounds; it differs from floor below 0.
  middle = jnp.trunc(joints / stride + 0.5)
  reach = 3 * sigma
  outside = (middle - reach >= size) | (middle + reach + 1 < 0)
  weight = (visible > 0) & ~jnp.any(outside, axis=-1)
  x, y = (
    _bell(middle[..., axis], map_size[axis], sigma, reach) for axis in (0, 1)
  )
  maps = y[..., :, None, :] * x[..., None, :, :]
  weight = weight.astype(joints.dtype)
  return maps * weight[..., None, None, :], weight


def _bell(middle, size, sigma, reach):
  """[..., size, J]: one axis of the Gaussian."""
  distance = jnp.arange(size)[:, None] - middle[..., None, :]
  value = jnp.exp(-jnp.square(distance) / (2 * sigma**2))
  return jnp.where(jnp.abs(distance) <= reach, value, 0)


def decode(maps: Array) -> tuple[Array, Array]:
  """The peak of every map, moved by a quarter pixel to the larger neighbour.

  Args:
    maps: float [..., h, w, J].

  Returns:
    Points [..., J, 2] in pixels of the map, (0, 0) for a map without a positive
    value, and the value of the peak, [..., J].
  """
  height, width = maps.shape[-3:-1]
  (x, y), peak, flat, index = _peaks(maps)
  inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)

  def step(offset):
    # Clipped where the peak is not inside, whose steps are not used.
    after, before = (
      jnp.take_along_axis(
        flat, jnp.clip(k, 0, flat.shape[-1] - 1)[..., None], axis=-1
      )[..., 0]
      for k in (index + offset, index - offset)
    )
    return jnp.where(inside, jnp.sign(after - before) / 4, 0)

  points = jnp.stack([x + step(1), y + step(width)], axis=-1)
  return points.astype(maps.dtype), peak


def peaks(maps: Array) -> tuple[Array, Array]:
  """The peak of every map, without the quarter pixel, as of `decode`."""
  places, peak, _, _ = _peaks(maps)
  return jnp.stack(places, axis=-1), peak


def _peaks(maps):
  height, width = maps.shape[-3:-1]
  flat = jnp.moveaxis(maps, -1, -3).reshape(
    *maps.shape[:-3], maps.shape[-1], height * width
  )
  index = jnp.argmax(flat, axis=-1)
  peak = jnp.max(flat, axis=-1)
  index = jnp.where(peak > 0, index, 0)
  return (index % width, index // width), peak, flat, index


def decode_to_image(
  maps: Array, center: Array, scale: Array
) -> tuple[Array, Array]:
  """`decode` of the maps [..., h, w, J] of upright crops, in image pixels."""
  points, peak = decode(maps)
  size = maps.shape[-2], maps.shape[-3]
  return transform(image_matrix(center, scale, 0.0, size), points), peak


def merge_mirrored(
  maps: Array, mirrored: Array, pairs: Sequence[Size], *, shift: bool = True
) -> Array:
  """Mean of maps and of those of the mirrored image.

  Args:
    maps: float [..., h, w, J].
    mirrored: maps of the mirrored image, as the network returned them.
    pairs: pairs of joints that change places.
    shift: whether to move the mirrored maps by one pixel to the right, with the
      first column repeated, because strided convolutions are not symmetric.
  """
  order = jnp.asarray(swap_pairs(maps.shape[-1], pairs))
  back = mirrored[..., ::-1, :][..., order]
  if shift:
    back = jnp.concatenate([back[..., :1, :], back[..., :-1, :]], axis=-2)
  return (maps + back) / 2
