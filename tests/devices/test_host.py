"""Work in threads: order, errors and how far it runs ahead."""

import threading

import pytest

from okd_jax.devices import host


def test_results_come_in_the_order_of_items(monkeypatch):
  monkeypatch.setattr(host, "cores", lambda: 3)
  # The first ends after the second has: only threads can do that.
  second = threading.Event()

  def work(item):
    if item == 0:
      assert second.wait(10)
    if item == 1:
      second.set()
    return 10 * item

  assert list(host.in_threads(work, range(5), ahead=2)) == [0, 10, 20, 30, 40]


def test_items_are_taken_little_ahead_and_errors_stay_in_place():
  taken = []

  def items():
    for item in range(20):
      taken.append(item)
      yield item

  results = host.in_threads(lambda item: 1 / (3 - item), items(), ahead=4)
  assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
  assert len(taken) == 3 + 4
  with pytest.raises(ZeroDivisionError):
    next(results)
  assert len(taken) == 4 + 4


def test_large_results_count_as_many():
  taken = []

  def items():
    for item in (3, 9, 1, 1, 1, 1):
      taken.append(item)
      yield item

  results = host.in_threads(str, items(), ahead=4, size=lambda item: item)
  # No more is held while the largest is; it comes without one ahead.
  assert next(results) == "3" and taken == [3, 9]
  assert next(results) == "9" and taken == [3, 9]
  assert list(results) == ["1"] * 4
