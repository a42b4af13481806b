#!/usr/bin/env bash
# Correctness checks of all methods and all accelerator benchmarks, ten minutes
# at most, with a short table last. What follows the folder goes to every
# training benchmark, for example to try the script where there is no
# accelerator:
#
#   bash benchmarks/device.sh [FOLDER [--net=resnet8 --peers=2 --batch=8 ...]]
#
# Needs jax with the accelerator's plugin, flax, optax and, for the reference,
# torch; not TensorFlow, ml_collections or tensorboardX.
set -uo pipefail
cd "$(dirname "$0")/.."
results=${1:-benchmark_results}
shift || true
mkdir -p "$results"
python=${PYTHON:-python3}
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

timeout 540 "$python" -m benchmarks.device "$results" "$@" \
  2>"$results/device.log" | tee "$results/device.txt"
tail -n 5 "$results/device.log"
timeout 25 "$python" -m benchmarks.input --names=digits --sources=memory \
  2>"$results/input.log" | tee "$results/input.txt"
echo
echo "== all"
"$python" -m benchmarks.goals "$results"
