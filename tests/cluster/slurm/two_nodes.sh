#!/usr/bin/env bash
# Two nodes joined by a wire, each with processes and addresses of its own; the command runs on node 0, and node 1 waits
# for the task that srun has for it. To be run in fresh network, mount and process namespaces.
set -euo pipefail
[[ $$ == 1 ]] || exit 99
touch "$STAGE/node1"
ip link set lo up

# shellcheck disable=SC2016 # for the shell inside
unshare --net --pid --fork --kill-child --mount --mount-proc bash -c '
  ip link set lo up
  until ip link show wire1 > /dev/null 2>&1; do sleep 0.1; done
  ip address add 10.77.0.2/24 dev wire1
  ip link set wire1 up
  until [[ -e $STAGE/task ]]; do sleep 0.2; done
  status=0
  bash "$STAGE/task" > "$STAGE/node1.log" 2>&1 || status=$?
  ps -e -o comm= | grep -c -E "^(raylet|gcs_server)" > "$STAGE/node1.left"
  echo "$status" > "$STAGE/node1.status"' &
until other=$(pgrep --parent "$!"); do sleep 0.1; done
ip link add wire0 type veth peer name wire1 netns "$other"
ip address add 10.77.0.1/24 dev wire0
ip link set wire0 up

# shellcheck disable=SC2016
unshare --pid --fork --kill-child --mount --mount-proc bash -c '
  status=0
  "$@" || status=$?
  ps -e -o comm= | grep -c -E "^(raylet|gcs_server)" > "$STAGE/node0.left"
  exit "$status"' node0 "$@"
