#!/bin/bash
# A Slurm cluster of two nodes, node1 and node2, on this machine, for one command: slurm_cluster.sh FOLDER COMMAND...
# Needs root, munge and slurm-wlm. Run it in namespaces of its own, which end with it, and everything in them:
#   unshare --mount --pid --fork --kill-child --mount-proc bash tests/slurm_cluster.sh FOLDER COMMAND...
set -e
work=$1
shift
mkdir -p "$work/state" "$work/log"
chmod 700 "$work"
head -c 128 /dev/urandom > "$work/munge.key"
chmod 400 "$work/munge.key"

# The nodes' names are this machine's.
cp /etc/hosts "$work/hosts"
echo "127.0.0.1 node1 node2" >> "$work/hosts"
mount --bind "$work/hosts" /etc/hosts

# A requeued job waits for credentials of its former run to expire: 5 seconds, not 2 minutes.
cat > "$work/slurm.conf" << CONF
ClusterName=dist_fm
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=17500
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket,cred_expire=5
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldLogFile=$work/log/slurmctld.log
SlurmdLogFile=$work/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
NodeName=node1 NodeAddr=127.0.0.1 Port=17501 CPUs=2 RealMemory=4000
NodeName=node2 NodeAddr=127.0.0.1 Port=17502 CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf

munged --force --key-file="$work/munge.key" --socket="$work/munge.socket" --pid-file="$work/munged.pid" \
  --seed-file="$work/munge.seed" --log-file="$work/log/munged.log"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N node1
slurmd -f "$SLURM_CONF" -N node2
for _ in $(seq 100); do
  [ "$(sinfo --noheader --format=%D --states=idle)" = 2 ] && break
  sleep 0.2
done
"$@"
