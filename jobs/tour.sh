#!/usr/bin/env bash
# A lineage to look around in: a branch, a rejected generation, a sweep, a promotion, a rollback, an adopted model.
#   jobs/tour.sh [STORAGE] [TRACKING]      then: mlflow/serve.sh STORAGE
set -euo pipefail
jobs=$(cd "$(dirname "$0")" && pwd)
storage=${1:-clray-tour}
settings=("storage=$storage" ${2:+"tracking=$2"})
lineage=(--storage "$storage" ${2:+--tracking "$2"})

accepted() { # the key of the stage's generation that its gate accepted
  clray log "${lineage[@]}" --json | python -c "
import json, sys
found = json.load(sys.stdin)['generations']
print(next(each['key'] for each in found if (each['stage'], each['status']) == ('$1', 'accepted')))"
}

clray run "$jobs/tour.yaml" "${settings[@]}"
clray sweep "$jobs/sweep_tour.yaml" "${settings[@]/#/stream.}"
clray promote "$(accepted code)" --to champion --why "docs and code, none forgotten" "${lineage[@]}"
clray promote newest --to champion --why "the newest" "${lineage[@]}"
clray rollback champion --why "docs lost more than the task gained" "${lineage[@]}"
[ -d "$storage/exported" ] || clray export "$jobs/tour.yaml" newest "${settings[@]}" --out "$storage/exported"
clray adopt "$storage/exported" --name tuned-elsewhere --parent "$(accepted code)" "${lineage[@]}"
clray log "${lineage[@]}"
