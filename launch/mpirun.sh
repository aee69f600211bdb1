#!/bin/bash
# Trains with Open MPI's mpirun, one process a host, and starts all again after a failure:
#
#   launch/mpirun.sh --hosts=2 [--host=node1,node2 | --hostfile=FILE] -- --data=data/ml-1m --model=deepfm
#
# What stands before -- is for mpirun (--hosts=N is its -np N), what stands after it for dist_fm.train. data and
# output_dir must be on a file system that all hosts share. With Open MPI 5, which does not say where its first process
# runs, give --coordinator=ADDRESS:PORT of it after the --. Environment: RESTARTS (default 3), PYTHON.
# Exit codes as those of local.py: 0 finished, 2 the command is wrong, 75 asked to stop and saved.

hosts=2
launcher=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  case $1 in
    --hosts=*) hosts=${1#--hosts=} ;;
    *) launcher+=("$1") ;;
  esac
  shift
done
if [ "$1" != "--" ]; then
  echo "launch: no -- was given, after which the flags of dist_fm.train stand" >&2
  exit 2
fi
shift

# mpirun passes SIGTERM on, and must leave time to save. It ends all processes when one fails; when it is killed itself,
# they must not live on beside those that start again.
with_parent=()
command -v setpriv > /dev/null && with_parent=(setpriv --pdeathsig KILL)
stopping=
trap 'stopping=1; kill -TERM "$child" 2>/dev/null' TERM INT
pause=1
for restart in $(seq 0 "${RESTARTS:-3}"); do
  mpirun -np "$hosts" --map-by node --bind-to none --mca odls_base_sigkill_timeout 60 "${launcher[@]}" \
    "${with_parent[@]}" "${PYTHON:-python}" -m dist_fm.train "$@" &
  child=$!
  while true; do # a signal ends wait before the child ends
    wait "$child"
    code=$?
    kill -0 "$child" 2> /dev/null || break
  done
  case $code in 0 | 2 | 75) exit $code ;; esac
  [ -n "$stopping" ] && exit $code
  [ "$restart" = "${RESTARTS:-3}" ] && exit $code
  echo "launch: a process failed with exit code $code; all start again in $pause s" >&2
  sleep $pause &
  child=$!
  wait "$child"
  [ -n "$stopping" ] && exit 75
  pause=$((pause * 2 > 60 ? 60 : pause * 2))
done
