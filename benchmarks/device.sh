#!/usr/bin/env bash
# Correctness checks and all accelerator benchmarks, ten minutes at most, with
# a short table last. What follows the folder goes to every training benchmark,
# for example to try the script where there is no accelerator:
#
#   bash benchmarks/device.sh [FOLDER [--net=resnet8 --peers=2 --batch=8 ...]]
#
# Needs jax with the accelerator's plugin, flax, optax and, for the reference,
# torch; not TensorFlow, ml_collections or tensorboardX.
set -uo pipefail
cd "$(dirname "$0")/.."
results=${1:-benchmark_results}
shift || true
more=("$@")
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

# name, seconds it may take, arguments of the benchmark
bench() {
  local name=$1 limit=$2
  shift 2
  rm -f "$results/$name.json"
  run "$name" "$limit" "$python" -m benchmarks.train_step --batch=128 \
    --rounds=5 --seconds=1 --json="$results/$name.json" \
    ${more[@]+"${more[@]}"} "$@"
}

alone=(--precision=bf16 --backend="jax chunk")
run checks 90 "$python" -m benchmarks.checks
bench okddip_bf16 130 --precision=bf16 \
  --backend="jax chunk,torch,torch channels-last,torch compiled"
bench okddip_f32 80 --backend="jax chunk,torch,torch channels-last"
bench branches_bf16 35 "${alone[@]}" --kind=branches
bench independent_bf16 35 "${alone[@]}" --method=independent
bench single_bf16 25 "${alone[@]}" --method=independent --peers=1
bench vmap_bf16 35 "${alone[@]}" --mapping=vmap
bench unroll_bf16 35 "${alone[@]}" --mapping=unroll
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_deterministic_ops=true" \
  bench deterministic_bf16 45 "${alone[@]}"
run input 25 "$python" -m benchmarks.input --names=digits --sources=memory

echo
echo "== all"
for name in okddip_bf16 okddip_f32 branches_bf16; do
  grep -hE "^(jax|torch|variant)|^jax.* is " "$results/$name.txt" 2>/dev/null |
    sed "s/^/$(printf '%-17s' "$name")/"
done
cat "$results/checks.txt"
"$python" -m benchmarks.goals "$results"
