#!/usr/bin/env bash
# An MLflow server over a PostgreSQL of its own, without containers: mlflow/serve-postgres.sh FOLDER [PORT]
# Both are for this machine alone (loopback, a unix socket), and all data lies in FOLDER. Ctrl-C ends both.
# PostgreSQL does not run as root: there it runs as the user `postgres` that its package makes.
set -euo pipefail
folder=${1:?usage: mlflow/serve-postgres.sh FOLDER [PORT]} port=${2:-5000}
mkdir -p "$folder/postgres"
folder=$(cd "$folder" && pwd)
initdb=$(command -v initdb || find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
[ -n "$initdb" ] || { echo "PostgreSQL is not installed (Debian: apt-get install postgresql)" >&2; exit 2; }
programs=$(dirname "$(readlink -f "$initdb")")
socket=$(mktemp -d "${TMPDIR:-/tmp}/clray-pg-XXXXXX")
PATH=$PATH:/usr/sbin:/sbin as=()  # runuser
if [ "$(id -u)" = 0 ]; then
  as=(runuser -u postgres --)
  chown postgres "$folder/postgres" "$socket"
fi

stop() {
  [ -z "${server:-}" ] || { kill "$server" 2>/dev/null || true; wait "$server" || true; }
  (cd / && "${as[@]}" "$programs/pg_ctl" stop --mode=fast --pgdata="$folder/postgres/data" >/dev/null) || true
  rm -rf "$socket"
}
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

database() { (cd / && "${as[@]}" "$programs/$1" "${@:2}"); }
if [ ! -f "$folder/postgres/data/PG_VERSION" ]; then
  database initdb --auth=trust --username=mlflow --encoding=UTF8 --pgdata="$folder/postgres/data" >/dev/null
fi
database pg_ctl start --wait --pgdata="$folder/postgres/data" --log="$folder/postgres/log" \
  --options="-c listen_addresses='' -c unix_socket_directories=$socket -c unix_socket_permissions=0700" >/dev/null
if [ -z "$(database psql --host="$socket" --username=mlflow --dbname=postgres --tuples-only --no-align \
  --command="select 1 from pg_database where datname = 'mlflow'")" ]; then
  database createdb --host="$socket" --username=mlflow mlflow
fi

echo "PostgreSQL: postgresql+psycopg2://mlflow@/mlflow?host=$socket"
export MLFLOW_DISABLE_TELEMETRY=${MLFLOW_DISABLE_TELEMETRY:-true}
mlflow server --host 127.0.0.1 --port "$port" --workers "${MLFLOW_WORKERS:-2}" \
  --backend-store-uri "postgresql+psycopg2://mlflow@/mlflow?host=$socket" \
  --artifacts-destination "$folder/mlartifacts" &
server=$!
wait "$server"
