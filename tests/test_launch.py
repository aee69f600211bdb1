"""The launch scripts, with their real launchers: hosts that die, hang or are asked to stop; links that are cut."""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import make_schema, write_data_set
from test_hosts import free_port
from train_runs import environ, flags, lines, same, wait_for_step

ROOT = pathlib.Path(__file__).parent.parent
PREEMPTED, USER_ERROR = 75, 2
GOES_ON = re.compile(r"going on from step (\d+)")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    schema = dataclasses.replace(make_schema((400, 300, 90)), has_groups=True)
    return write_data_set(tmp_path_factory.mktemp("launch") / "data", schema)


def run_flags(data, output, **more):
    """A run of 60 steps on a sharded table; ``slow`` ones are killed before they end."""
    keys = {"devices": 1, "tables.update": "sparse", "tables.placement": "sharded", "run.heartbeat_s": 10, **more}
    return [flag for flag in flags(data, output, **keys) if not flag.startswith("--devices")]


def local(data, output, *own, **more):
    command = [sys.executable, str(ROOT / "launch" / "local.py"), "--hosts=2", "--devices=1", *own]
    return [*command, *run_flags(data, output, **more)]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run that nothing disturbed, on two hosts."""
    output = tmp_path_factory.mktemp("launch") / "whole"
    done = subprocess.run(local(data, output), env=environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"hosts: 2 \(flags\), mesh 2 x 1; rows .*: host 0 reads 0-29, host 1 reads 30-59", done.stdout)
    return output


def hosts_of(launcher):
    """Process numbers of a launcher's training processes, by host."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == launcher and "dist_fm.train" in words:
            found[next(int(word[7:]) for word in words if word.startswith("--host="))] = int(path.parent.name)
    return found


def start(command):
    return subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_wrong_command_is_not_tried_again(data, tmp_path):
    done = subprocess.run(local(data, tmp_path / "run", model="depfm"), env=environ(), capture_output=True, text=True)
    assert done.returncode == USER_ERROR
    assert "did you mean deepfm?" in done.stderr and "start again" not in done.stderr


@pytest.mark.slow
def test_two_hosts_evaluate_as_one(data, whole):
    """Every row once, in stored order: the metrics are exact whoever scored which."""
    evaluate = [sys.executable, "-m", "dist_fm.evaluate", f"--run={whole}", "--platform=cpu"]
    one = json.loads(subprocess.run([*evaluate, "--devices=2"], env=environ(), capture_output=True, check=True).stdout)
    port = free_port()
    hosts = [
        start([*evaluate, "--devices=1", "--hosts=2", f"--host={host}", f"--coordinator=127.0.0.1:{port}"])
        for host in (0, 1)
    ]
    said = [process.communicate()[0] for process in hosts]
    two = json.loads(said[0][said[0].index("{") : said[0].rindex("}") + 1])
    assert "{" not in said[1]
    assert two.pop("split") == one.pop("split") == "test"
    assert two == pytest.approx(one, rel=1e-6) and two["rows"] == 150 and two["gauc"] and two["ndcg@10"]


@pytest.mark.slow
def test_two_hosts_keep_the_negatives_that_one_keeps(data, tmp_path):
    rate = {"data.negative_rate": 0.5}
    for command in (
        local(data, tmp_path / "two", **rate),
        [sys.executable, "-m", "dist_fm.train", *run_flags(data, tmp_path / "one", **rate), "--devices=2"],
    ):
        done = subprocess.run(command, env=environ(), capture_output=True, text=True)
        assert done.returncode == 0 and len(re.findall(r"kept: \d+ of 900 training rows", done.stdout)) == 1, (
            done.stderr
        )
    one, two = (
        [event["loss"] for event in lines(tmp_path / run) if event["split"] == "train"] for run in ("one", "two")
    )
    assert two == pytest.approx(one, rel=1e-4) and 10 < len(one) < 20  # of 20 lines


@pytest.mark.slow
def test_10_kills_of_one_of_two_hosts_at_random(data, whole, tmp_path):
    draw = random.Random(1)
    for number in range(10):
        run = tmp_path / f"run{number}"
        with start(local(data, run, "--backoff_s=0.1")) as launcher:
            wait_for_step(run, draw.randint(1, 57))
            hosts = hosts_of(launcher.pid)
            killed_at = time.monotonic()
            os.kill(hosts[number % 2], signal.SIGKILL)
            before = line_count(run)
            while line_count(run) <= before and launcher.poll() is None:  # cut back at the restart, then longer
                before = min(before, line_count(run))
                time.sleep(0.01)
            print(f"run {number}: {time.monotonic() - killed_at:.1f} s from the kill to the first new line of steps")
            said = launcher.communicate()[0]
        assert launcher.returncode == 0, said
        assert "was killed by SIGKILL; all were ended, and start again in 0.1 s (restart 1 of 3)" in said
        same(run, whole)
        assert not hosts_of(launcher.pid)


def line_count(run):
    return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_asking_one_host_to_stop_stops_both_at_the_same_step(data, whole, tmp_path, host):
    run = tmp_path / "run"
    with start(local(data, run, save_steps=1000)) as launcher:
        wait_for_step(run, 12)
        os.kill(hosts_of(launcher.pid)[host], signal.SIGTERM)
        said = launcher.communicate()[0]
    assert launcher.returncode == PREEMPTED, said
    stopped = re.findall(r"asked to stop: step (\d+) is saved", said)
    assert len(stopped) == 2 and len(set(stopped)) == 1, said
    assert [path.name for path in (run / "checkpoints").iterdir()] == [stopped[0]]
    done = subprocess.run(local(data, run), env=environ(), capture_output=True, text=True)
    assert GOES_ON.findall(done.stdout) == [stopped[0]]
    same(run, whole)


@pytest.mark.slow
def test_the_host_that_leaves_last_may_be_asked_again(data, tmp_path):
    """As ``srun --kill-on-bad-exit`` does once another has left: it has saved, and says so by its exit code."""
    run, port = tmp_path / "run", free_port()
    command = [sys.executable, "-m", "dist_fm.train", *run_flags(data, run, save_steps=1000), "--devices=1"]
    command += ["--hosts=2", f"--coordinator=127.0.0.1:{port}"]
    with start([*command, "--host=0"]) as first, start([*command, "--host=1"]) as second:
        wait_for_step(run, 12)
        first.terminate()
        while first.poll() is None and second.poll() is None:
            time.sleep(0.0005)
        for host in (first, second):
            host.terminate()
        assert [first.wait(), second.wait()] == [PREEMPTED] * 2, first.stdout.read() + second.stdout.read()


@pytest.mark.slow
def test_a_hung_host_is_noticed_and_all_start_again(data, whole, tmp_path):
    run = tmp_path / "run"
    with start(local(data, run, "--backoff_s=0.1")) as launcher:
        wait_for_step(run, 12)
        hung_at = time.monotonic()
        os.kill(hosts_of(launcher.pid)[1], signal.SIGSTOP)
        said = launcher.communicate()[0]
    print(f"{time.monotonic() - hung_at:.0f} s from the hang to the end of the run")
    assert launcher.returncode == 0 and "start again" in said, said
    same(run, whole)


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process(data, tmp_path):
    with start(local(data, tmp_path / "run")) as launcher:
        wait_for_step(tmp_path / "run", 3)
        hosts = hosts_of(launcher.pid)
        launcher.kill()
    assert len(hosts) == 2
    until = time.monotonic() + 10
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in hosts.values()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in hosts.values())


@pytest.mark.slow
def test_open_mpi(data, whole, tmp_path):
    """One process is killed; the script starts all again."""
    if not shutil.which("mpirun"):
        pytest.skip("needs Open MPI: apt-get install openmpi-bin")
    run = tmp_path / "run"
    command = [str(ROOT / "launch" / "mpirun.sh"), "--hosts=2", "--host", "localhost:2", "--"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env = environ(PYTHON=sys.executable, **root)
    command += [*run_flags(data, run), "--devices=1"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        wait_for_step(run, 21)
        subprocess.run(["pkill", "-KILL", "-f", "--oldest", f"^{sys.executable} -m dist_fm.train"], check=True)
        said = launcher.communicate()[0]
    assert launcher.returncode == 0, said
    assert "hosts: 2 (Open MPI), mesh 2 x 1" in said and GOES_ON.search(said)
    same(run, whole)


SLURM_JOB = """
sbatch --time=10 --output="$FOLDER/job.out" launch/slurm.sbatch "$@" || exit 1
lines() { cat "$RUN/metrics.jsonl" 2>/dev/null | wc -l; }
wait_for() { until [ $(lines) -ge $1 ] || [ -e "$RUN/result.json" ]; do sleep 0.05; done; }
wait_for 4
scancel --signal=TERM 1  # as Slurm does before a time limit, or to preempt: to the processes, not the script
until grep -q "queued again" "$FOLDER/job.out"; do sleep 0.1; done
wait_for 14
pkill -KILL -f -o "^$PYTHON -m dist_fm.train"
until [ -e "$RUN/result.json" ] && [ -z "$(squeue --noheader)" ]; do sleep 0.5; done
"""


@pytest.mark.slow
def test_slurm(data, whole, tmp_path):
    """Two nodes: stopped once as before a time limit, killed once, requeued both times, and the same in the end."""
    if os.geteuid() or not shutil.which("slurmctld") or not shutil.which("munged"):
        pytest.skip("needs root, Slurm and munge: apt-get install slurm-wlm munge")
    run, folder = tmp_path / "run", tmp_path / "slurm"
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    cluster = ["bash", str(ROOT / "tests" / "slurm_cluster.sh"), folder]
    job = ["bash", "-c", SLURM_JOB, "job", *run_flags(data, run), "--devices=1"]
    env = environ(PYTHON=sys.executable, FOLDER=str(folder), RUN=str(run))
    done = subprocess.run([*alone, *cluster, *job], env=env, cwd=ROOT, timeout=600, capture_output=True, text=True)
    said = (folder / "job.out").read_text() if (folder / "job.out").exists() else ""
    assert done.returncode == 0, done.stderr + said
    assert said.count("hosts: 2 (Slurm), mesh 2 x 1") == 3, said
    assert "asked to stop, and saved; the job is queued again" in said
    # Slurm gives the highest code: 128 + SIGKILL of the killed one, or 128 + SIGTERM of the other, if that still lives.
    assert re.search(r"srun: error: node\d: task \d: Killed", said), said
    failed = re.search(r"exit code (\d+) \(failure 1, of which 3 are allowed\); the job is queued again", said)
    assert failed and int(failed[1]) in (128 + signal.SIGKILL, 128 + signal.SIGTERM), said
    assert len(GOES_ON.findall(said)) == 2
    same(run, whole)


@pytest.mark.slow
def test_ray(data, whole, tmp_path):
    """One worker is killed; Ray starts all again."""
    pytest.importorskip("ray", reason="needs the extra ray")
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "launch" / "ray_train.py"), "--workers=2", f"--storage={tmp_path / 'ray'}"]
    with start([*command, *run_flags(data, run), "--devices=1"]) as launcher:
        wait_for_step(run, 21)
        subprocess.run(["pkill", "-KILL", "-f", "--oldest", "RayTrainWorker"], check=True)
        said = launcher.communicate(timeout=400)[0]
    assert launcher.returncode == 0, said
    assert GOES_ON.search(said)
    same(run, whole)


# Two hosts in network namespaces of their own, joined by a veth, which is cut for $CUT seconds; each in a UTS namespace
# too, as the hosts find each other's addresses by their names.
NETWORK = """
set -e
mount -t tmpfs none /etc/netns 2>/dev/null || { mkdir -p /etc/netns && mount -t tmpfs none /etc/netns; }
for n in 0 1; do
  ip netns add host$n
  mkdir -p /etc/netns/host$n
  printf '127.0.0.1 localhost\\n10.9.0.1 host0\\n10.9.0.2 host1\\n' > /etc/netns/host$n/hosts
done
trap 'ip netns del host0; ip netns del host1' EXIT
ip link add v0 netns host0 type veth peer name v1 netns host1
for n in 0 1; do
  ip -n host$n addr add 10.9.0.$((n + 1))/24 dev v$n
  ip -n host$n link set v$n up
  ip -n host$n link set lo up
done
on_host() { n=$1; shift; exec ip netns exec host$n unshare --uts sh -c 'hostname host'$n'; exec "$@"' sh "$@"; }
for n in 0 1; do
  (on_host $n "$@" --hosts=2 --host=$n --coordinator=10.9.0.1:8476) > "$FOLDER/log$n" 2>&1 &
  pids="$pids $!"
done
until [ "$(cat "$RUN/metrics.jsonl" 2>/dev/null | wc -l)" -ge 6 ]; do sleep 0.05; done
ip -n host0 link set v0 down
cut_at=$(date +%s)
sleep $CUT
if [ $CUT -lt 60 ]; then ip -n host0 link set v0 up; fi
for pid in $pids; do wait $pid && code=0 || code=$?; echo "code $code after $(($(date +%s) - cut_at)) s"; done
"""


def on_a_network(data, run, folder, cut_s, heartbeat_s):
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and ip: apt-get install iproute2")
    folder.mkdir()
    train = [sys.executable, "-m", "dist_fm.train", *run_flags(data, run, **{"run.heartbeat_s": heartbeat_s})]
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*alone, "bash", "-c", NETWORK, "network", *train, "--devices=1"]
    env = environ(FOLDER=str(folder), RUN=str(run), CUT=str(cut_s))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
    print(done.stdout)
    logs = [(folder / f"log{n}").read_text() for n in (0, 1)]
    return [int(code) for code in re.findall(r"code (\d+)", done.stdout)], logs, done.stderr


@pytest.mark.slow
def test_a_link_that_is_cut_for_10_seconds_costs_nothing(data, whole, tmp_path):
    codes, logs, error = on_a_network(data, tmp_path / "run", tmp_path / "net", cut_s=10, heartbeat_s=60)
    assert codes == [0, 0], (error, logs)
    same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("cut_s", [30, 60])  # the latter for good
def test_hosts_whose_link_is_cut_for_longer_end_and_go_on_when_started_again(data, whole, tmp_path, cut_s):
    codes, logs, error = on_a_network(data, tmp_path / "run", tmp_path / "net", cut_s=cut_s, heartbeat_s=10)
    assert len(codes) == 2 and not {0, USER_ERROR} & set(codes), (error, logs)
    done = subprocess.run(local(data, tmp_path / "run"), env=environ(), capture_output=True, text=True)
    assert done.returncode == 0 and GOES_ON.search(done.stdout), done.stderr
    same(tmp_path / "run", whole)


@pytest.mark.slow
def test_the_jobset_manifest_is_one():
    """Against Kubernetes' own schema of a Job, and the fields of JobSet's v1alpha2 that the manifest uses."""
    # Seventeen thousand files of schemas: they made the set-up of the fast tests an eighth longer.
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs pip install kubernetes-validate")
    manifest = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = manifest["spec"]
    assert spec.keys() <= {"replicatedJobs", "failurePolicy", "successPolicy", "network", "suspend", "coordinator"}
    assert spec["failurePolicy"].keys() <= {"maxRestarts", "rules", "restartStrategy"}
    assert spec["network"].keys() <= {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"}
    (job,) = spec["replicatedJobs"]
    assert job.keys() <= {"name", "replicas", "template", "groupName", "dependsOn"}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
    kubernetes_validate.validate(body, "1.30", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            json.loads(json.dumps(body).replace("backoffLimit", "backofLimit")), "1.30", strict=True
        )
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    hosts = job["template"]["spec"]["completions"]
    assert job["template"]["spec"]["parallelism"] == hosts == int(env["DIST_FM_HOSTS"])
    first = f"{manifest['metadata']['name']}-{job['name']}-0-0.{spec['network']['subdomain']}"
    assert env["JAX_COORDINATOR_ADDRESS"] == f"{first}:{container['ports'][0]['containerPort']}"
