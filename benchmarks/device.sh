#!/usr/bin/env bash
# Correctness checks and all accelerator benchmarks, ten minutes at most, with
# a short table last: sh benchmarks/device.sh [folder for the results].
# Needs jax with the accelerator's plugin, flax, optax and, for the reference,
# torch; not TensorFlow, ml_collections or tensorboardX.
set -uo pipefail
cd "$(dirname "$0")/.."
results=${1:-benchmark_results}
mkdir -p "$results"
python=${PYTHON:-python3}
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export PYTHONPATH=$PWD

# name, seconds it may take, command
run() {
  local name=$1 limit=$2
  shift 2
  echo "== $name"
  if timeout "$limit" "$@" >"$results/$name.txt" 2>"$results/$name.log"; then
    tail -n 12 "$results/$name.txt"
  else
    echo "$name failed or ran out of time: $results/$name.log" |
      tee -a "$results/$name.txt"
    tail -n 4 "$results/$name.log"
  fi
}

bench() {
  local name=$1 limit=$2
  shift 2
  run "$name" "$limit" "$python" -m benchmarks.train_step \
    --rounds=5 --seconds=1 --json="$results/$name.json" "$@"
}

run checks 90 "$python" -m benchmarks.checks
bench okddip_bf16 140 --batch=128 --precision=bf16 --backend=both
bench okddip_f32 110 --batch=128 --backend="jax chunk,torch,torch channels-last"
bench branches_bf16 60 --batch=128 --precision=bf16 --kind=branches \
  --backend="jax chunk"
bench independent_bf16 50 --batch=128 --precision=bf16 --method=independent \
  --backend="jax chunk"
bench single_bf16 40 --batch=128 --precision=bf16 --method=independent \
  --peers=1 --backend="jax chunk"
bench vmap_bf16 60 --batch=128 --precision=bf16 --mapping=vmap \
  --backend="jax chunk"
run input 40 "$python" -m benchmarks.input --names=digits --sources=memory

echo
echo "== all"
for name in okddip_bf16 okddip_f32 branches_bf16 independent_bf16 single_bf16 \
  vmap_bf16; do
  grep -hE "^(jax|torch|variant)|^jax.* is " "$results/$name.txt" 2>/dev/null |
    sed "s/^/$(printf '%-17s' "$name")/"
done
cat "$results/checks.txt"
