#!/usr/bin/env bash
# Asks for Cloud TPU machines, each of which is a worker on one comparison:
#   ZONE=us-west4-a IMAGE=REGISTRY/okd-jax:tpu deploy/tpu_queued.sh 4 \
#     --config=configs/compare_c100.py --workdir=gs://BUCKET/runs/c100
# TYPE must be of one machine, VERSION fit it. A machine that is taken away
# is asked for again by the same command. When all is done:
#   gcloud compute tpus queued-resources delete okd-1 --force --zone=...
set -euo pipefail

count=${1:?how many machines}
shift
: "${ZONE:?}" "${IMAGE:?}"
TYPE=${TYPE:-v5litepod-8}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}

start=$(mktemp)
trap 'rm -f "$start"' EXIT
{
  echo '#!/bin/bash'
  echo "gcloud auth configure-docker '${IMAGE%%/*}' --quiet"
  # Stopped with the machine; 20 s are for a step and a save.
  printf 'docker run --rm --privileged --net=host --stop-timeout=20'
  printf ' %q' "$IMAGE" -m okd_jax compare "$@" --skip-failed
  echo
} >"$start"

# Not one request of many nodes: those would be one run of several slices.
for number in $(seq "$count"); do
  gcloud compute tpus queued-resources create "okd-$number" \
    --node-id="okd-$number" --zone="$ZONE" --accelerator-type="$TYPE" \
    --runtime-version="$VERSION" --spot \
    --metadata-from-file=startup-script="$start" ||
    echo "okd-$number was not asked for: see above" >&2
done
