"""The benchmarks run, and say what their figures say; no time is asserted."""

import dataclasses
import json
from pathlib import Path
import re
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import quick

from benchmarks import (
  cost,
  cuda,
  goals,
  hbm,
  interval,
  listing,
  save,
  table,
  term_gradients,
  tpu_program,
  tpu_table,
)
from benchmarks.tpu_program import Program
from configs import independent_digits
from okd_jax import methods
from okd_jax.settings import freeze, schema

ROOT = Path(__file__).resolve().parents[1]


def result(seconds, *, peers=4):
  return {
    "setting": {
      "peers": peers,
      "net": "resnet32",
      "kind": "replicas",
      "method": "okddip",
      "batch": 100,
      "precision": "bf16",
      "mesh": [1, 1],
      "mapping": "auto",
    },
    "variants": {
      name: {"step_seconds": times, "cold": {"total": 2}}
      for name, times in seconds.items()
    },
  }


CLASSIFYING = [
  name
  for name in methods.names()
  if methods.make(name).task == "classification"
]


# Those with a teacher, and with a trunk of its own kind.
@pytest.mark.parametrize("name", quick.only(["kd", "cl_ilr"], CLASSIFYING))
def test_every_method_has_a_program(name):
  program = Program(
    method=name,
    net="resnet8",
    kind=methods.make(name).needs.kind or "replicas",
    batch=4,
  )
  step, arguments = tpu_program.make(program, jax.devices()[:1])
  state, _ = jax.eval_shape(step, *arguments)
  jax.tree.map(
    lambda after, before: chex.assert_shape(after, before.shape),
    state,
    arguments[0],
  )


@pytest.mark.long
def test_the_cost_of_recipes_with_a_teacher_and_not_of_comparisons(
  monkeypatch, capsys
):
  monkeypatch.chdir(ROOT)
  cost.main([f"configs/{name}_c100.py" for name in ("compare", "ctkd", "kd")])
  _, _, *lines = capsys.readouterr().out.splitlines()
  assert [line.split(" | ")[0] for line in lines] == [
    "| configs/ctkd_c100.py",
    "| configs/kd_c100.py",
  ]
  # As docs/results.md says.
  page = (ROOT / "docs" / "results.md").read_text()
  assert all(line in page for line in lines)


def test_goals_compare_medians_of_an_image(tmp_path):
  files = {
    # Medians 0.004, 0.02 and 0.006 s for 100 images.
    "okddip_bf16": result(
      {
        "jax chunk": [0.004, 0.003, 0.1],
        "torch": [0.02, 0.01, 0.03],
        "torch compiled": [0.006],
      }
    ),
    "independent_bf16": result({"jax chunk": [0.002]}),
    "single_bf16": result({"jax chunk": [0.001]}, peers=1),
  }
  for name, content in files.items():
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
  figures = [figure for _, figure, _ in goals.lines(goals.Results(tmp_path))]
  assert figures == [
    "5.00",
    "1.50",
    "10.0",
    "+100.0 %",
    "1.00",
    "not measured",
    "not measured",
    "not measured",
  ]


def test_the_table_counts_images():
  seconds = {"jax": [0.2], "torch": [0.1]}
  ours, theirs = table.rows(result(seconds))
  assert ours[3:5] == ("500", "0.50")
  assert theirs[3:5] == ("1000", "1.00")


@pytest.mark.long
def test_a_training_step_is_measured(tmp_path):
  written = tmp_path / "result.json"
  printed = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.train_step", f"--json={written}"),
      *("--net=resnet8", "--peers=2", "--batch=4", "--backend=jax"),
      *("--rounds=2", "--seconds=0.01"),
    ],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  assert "ms/step" in printed
  found = json.loads(written.read_text())["variants"]["jax"]
  assert len(found["step_seconds"]) == 2 and min(found["step_seconds"]) > 0
  # First convolution; then two 3x3 and, where sizes change, a 1x1; classifier.
  one = 9 * 3 * 16 * 32**2 + 2 * 9 * 16 * 16 * 32**2
  one += (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) * 16**2
  one += (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) * 8**2 + 64 * 100
  assert found["about"]["multiply_adds"] == 2 * one


def test_how_strongly_terms_pull():
  def gradient(weights):
    return {"x": 3.0 * weights["a"] - 4 * weights["b"], "y": weights["b"]}

  found = term_gradients.pulls(gradient, ("a", "b"))
  np.testing.assert_allclose(found["a"], [3, -4 / 17**0.5], rtol=1e-6)
  np.testing.assert_allclose(found["b"], [17**0.5, -4 / 17**0.5], rtol=1e-6)


def test_costs_are_of_all_peers_and_the_whole_run():
  config = freeze.freeze(independent_digits.get_config())
  found = cost.cost(config)
  # The last batch is whole, too.
  assert found["images"] == -(-30 * 1437 // 64) * 64
  assert found["vs_one"] == 4
  assert found["pflop"] == pytest.approx(
    found["gflop_image"] * found["images"] / 1e6
  )


def test_only_slow_memory_counts():
  text = """\
HloModule jit_step

%fused (param_0: bf16[8,4]) -> bf16[8,4] {
  ROOT %n = bf16[8,4]{1,0} negate(bf16[8,4]{1,0} %param_0)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(128)} parameter(0)
  %s = (f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)
  %d = f32[8]{0:T(128)S(1)} copy-done(%s)
  %a = bf16[8,4]{1,0:T(8,128)(2,1)} fusion(%d), calls=%fused
  %t = (bf16[8,4]{1,0}, bf16[2,4]{1,0:S(1)}, u32[]{:S(2)}) async-start(%a)
  %e = bf16[2,4]{1,0:S(1)} async-done(%t)
  %b = (bf16[8,4]{1,0}, pred[8]{0:S(1)}) fusion(%a, %d), calls=%fused
  ROOT %g = bf16[8,4]{1,0} get-tuple-element(%b), index=0
}
"""
  # A copy reads 32 bytes, a fusion writes 64, a slice reads 16 of those, and
  # the last fusion all before it writes as many.
  assert hbm.moved(text) == 32 + 64 + 16 + 64 + 64


def test_kernels_of_cards_are_counted():
  text = """\
HloModule jit_step

%fused (param_0: bf16[8,4]) -> bf16[8,4] {
  %copy.1 = bf16[8,4]{1,0} copy(%param_0)
  ROOT %t = bf16[8,4]{1,0} transpose(%copy.1), dimensions={0,1}
}

ENTRY %main (x: bf16[8,4]) -> bf16[8,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %a = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused
  %c = (bf16[8,4]{1,0}, s8[64]{0}) custom-call(%a, %x), \
custom_call_target="__cudnn$convForward"
  %g = bf16[8,4]{1,0} get-tuple-element(%c), index=0
  ROOT %f = bf16[8,4]{1,0} fusion(%g), kind=kInput, calls=%fused
}
"""
  assert cuda.kernels(text) == {"fusion": 2, "__cudnn$convForward": 1}


FACTS = {
  "estimated_ms": 2.0,
  "hbm": 38e6,
  "bytes": 1.153e9,
  "flops": 50.35e9,
  "temporaries": 44e6,
  "collectives": {"all-reduce": 3},
  "collective_bytes": {"all-reduce": 2.5e6},
  "compile_seconds": 39.4,
}


def test_the_table_of_tpus_shows_what_was_found():
  program = Program(method="plain", peers=1)
  found = {program: dataclasses.asdict(program) | FACTS}
  assert tpu_table.tables(found)[tpu_table.SPEED].splitlines()[2:] == [
    "| 1 resnet32 network, plain | v5e:2x2, 1x1 | 128 | 2.00 | 0.04 | 1.15 | "
    "50 | 44 | 3, 2.5 MB | 39 | 64000 | 4 |"
  ]


def test_a_slice_of_tpus_is_said_to_need_cores_and_seconds():
  program = next(p for p in tpu_table.rows_of_scale() if p.mesh == (16, 4))
  found = {program: dataclasses.asdict(program) | FACTS}
  # 2,048 images in 2 ms, of 8 hosts; 215 images/s a core.
  assert tpu_table.tables(found)[tpu_table.SCALE].splitlines()[2:] == [
    "| 64, 16x4 | 2048 | 2.0 | 0.04 | 3 | 2 | 1024000 | 128000 | 595 | 1.3 |"
  ]


def test_the_pages_have_the_tables_of_the_results():
  for page, written in tpu_table.tables(tpu_table.read()).items():
    assert written in page.read_text()


def test_readme_has_the_results_of_training_steps():
  """Every row of both tables is of a file, and every file has its rows."""
  readme = (ROOT / "README.md").read_text()
  files = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
  measured = {
    f"| {' | '.join(row)} |"
    for path in files
    for row in table.rows(json.loads(path.read_text()))
  }
  shown = re.findall(r"^\| \d resnet32 .*\|$", readme, re.MULTILINE)
  assert sorted(shown) == sorted(measured)


def test_readme_says_what_four_networks_cost_and_how_fast_a_run_was():
  readme = " ".join((ROOT / "README.md").read_text().split())
  (times,) = re.findall(r"Four networks take ([\d.]+) times as long", readme)
  folder = ROOT / "benchmarks" / "results" / "h100"
  four, one = (
    json.loads((folder / f"{name}_bf16.json").read_text())["variants"]
    for name in ("independent", "single")
  )
  ratio = np.median(four["jax chunk"]["step_seconds"])
  ratio /= np.median(one["jax chunk"]["step_seconds"])
  assert times == f"{ratio:.1f}"
  (speed,) = re.findall(r"images an epoch at ([\d,]+) images/s", readme)
  page = (ROOT / "docs" / "results.md").read_text()
  assert re.search(rf"^\| okddip, 4 \| .* \| {speed} \|$", page, re.MULTILINE)


def test_the_best_interval_loses_least():
  costs = interval.Costs(wait=0.5, saved=2.0, down=100.0)
  # sqrt(2 * 0.5 * 3600) = 60.
  assert interval.best(3600.0, costs) == 60.0
  # 0.5 / 60 + (30 + 2 + 100) / 3600
  assert interval.lost(60.0, 3600.0, costs) == pytest.approx(0.045)
  for other in (50.0, 59.0, 61.0, 70.0):
    assert interval.lost(other, 3600.0, costs) > 0.045
  # The next save waits for the last one.
  assert interval.best(1.0, costs) == 2.0


def test_the_page_has_the_table_of_intervals():
  table = "\n".join(interval.table(interval.Costs()))
  assert table in interval.PAGE.read_text()
  default = schema.RunConfig.__dataclass_fields__["checkpoint_secs"].default
  assert interval.DEFAULT_SECS == default


def test_starts_over_many_pictures_are_timed(tmp_path):
  found = listing.measure(tmp_path, 300)
  assert found.pop("pictures") == 300
  assert all(value > 0 for value in found.values())


def test_saves_are_timed(tmp_path):
  found = save.measure(tmp_path, 0.1, 2)
  assert 0 < found["training_waits"] <= found["until_verified"]
  assert found["restore"] > 0
