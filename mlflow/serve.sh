#!/usr/bin/env bash
# An MLflow server over the SQLite file of a storage folder, for this machine alone: mlflow/serve.sh [STORAGE] [PORT]
set -euo pipefail
storage=${1:-clray-store} port=${2:-5000}
mkdir -p "$storage"
storage=$(cd "$storage" && pwd)
export MLFLOW_DISABLE_TELEMETRY=${MLFLOW_DISABLE_TELEMETRY:-true}
exec mlflow server --host 127.0.0.1 --port "$port" --workers 1 \
  --backend-store-uri "sqlite:///$storage/mlflow.db" --artifacts-destination "$storage/mlartifacts"
