#!/bin/sh
# mini_slurm.sh start|stop FOLDER [NODES] [CPUS]
#
# A real SLURM on one machine, for tests: no systemd, no cgroups, no accounting.  Needs root and
#     apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client
# Every daemon writes its process id to FOLDER, and `stop` ends those and no others.
set -eu
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
nodes=${3:-2}
cpus=${4:-2}
host=$(hostname -s)
export SLURM_CONF="$dir/slurm.conf"

wait_for() { # SECONDS COMMAND...
  left=$(($1 * 5))
  shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || { echo "mini_slurm: gave up waiting for: $*" >&2; tail -n 5 "$dir"/log/* >&2; exit 1; }
    sleep 0.2
  done
}

all_idle() { [ "$(sinfo -h -N -t idle -o %n | wc -l)" -ge "$nodes" ]; }

configure() {
  cat <<CONF
ClusterName=mini
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits as long as a credential lives, two minutes by default.
AuthInfo=cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=5
MinJobAge=3600
JobRequeue=1
BatchStartTimeout=60
RebootProgram=/bin/true
CONF
  for n in $(seq "$nodes"); do
    echo "NodeName=n$n NodeHostname=$host NodeAddr=127.0.0.1 Port=$((26900 + n)) CPUs=$cpus RealMemory=1000"
  done
  echo "PartitionName=main Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO"
}

start() {
  mkdir -p "$dir/state" "$dir/log" "$dir/spool" /run/munge
  chown munge: /run/munge
  chmod 755 /run/munge
  if [ ! -s /etc/munge/munge.key ]; then
    dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 2>/dev/null
    chown munge: /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
  fi
  configure >"$SLURM_CONF"
  # munged refuses to run with the random state of another user.
  setpriv --reuid munge --regid munge --clear-groups munged -F >"$dir/log/munged.out" 2>&1 </dev/null &
  echo $! >"$dir/3-munged.started"
  wait_for 20 munge -n
  slurmctld -D -f "$SLURM_CONF" >"$dir/log/slurmctld.out" 2>&1 </dev/null &
  echo $! >"$dir/2-slurmctld.started"
  for n in $(seq "$nodes"); do
    slurmd -D -N "n$n" -f "$SLURM_CONF" >"$dir/log/slurmd.n$n.out" 2>&1 </dev/null &
    echo $! >"$dir/1-slurmd.n$n.started"
  done
  wait_for 60 all_idle
}

stop() {
  scancel -u "$(id -un)" 2>/dev/null || :
  sleep 1
  for file in "$dir"/[123]-*.started; do
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || :
    left=300
    while kill -0 "$pid" 2>/dev/null && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
    kill -9 "$pid" 2>/dev/null || :
    rm -f "$file"
  done
}

"$verb"
