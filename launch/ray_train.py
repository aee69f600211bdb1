"""Trains on a Ray cluster with Ray Train's JaxTrainer, one worker a host, and starts all again when one fails.

    python launch/ray_train.py --workers=2 [--failures=3] [--gpus=0] --data=data/ml-1m --model=deepfm

Every other flag is dist_fm.train's; --data and --output_dir must be on a file system that all workers share, as must
--storage, where Ray keeps its own notes. Needs the extra: pip install 'dist-fm[ray]'.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.flags import load_config, parse_flags


def main(arguments: Sequence[str]) -> None:
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.jax import JaxConfig, JaxTrainer
    except ImportError as error:
        raise UserError("Ray Train is not installed: pip install 'dist-fm[ray]'") from error

    own, flags = parse(arguments)
    parsed, config_file = parse_flags(flags, own=("config",))
    load_config(config_file.get("config"), parsed)  # a wrong flag is told before any worker starts
    if own.gpus == 0:
        os.environ["JAX_PLATFORMS"] = "cpu"
    ray.init(runtime_env={"env_vars": {"JAX_PLATFORMS": "cpu"} if own.gpus == 0 else {}}, ignore_reinit_error=True)
    resources = {"CPU": own.cpus, **({"GPU": own.gpus} if own.gpus else {})}
    trainer = JaxTrainer(
        train_on_worker,
        train_loop_config={"flags": flags},
        # What has Ray join the workers by jax.distributed, GPUs or not.
        jax_config=JaxConfig(use_gpu=True),
        scaling_config=ScalingConfig(num_workers=own.workers, resources_per_worker=resources),
        run_config=RunConfig(
            name="dist_fm", storage_path=os.path.abspath(own.storage), failure_config=FailureConfig(own.failures)
        ),
    )
    trainer.fit()


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--failures", type=int, default=3, help="how often all start again after a worker failed")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs that Ray sets aside for a worker")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of a worker; 0: it runs on CPUs")
    parser.add_argument("--storage", default="runs/ray", help="directory for Ray Train's own notes")
    return parser.parse_known_args(arguments)


def train_on_worker(options: dict[str, Any]) -> None:
    """Runs in every worker, which Ray has joined to the others by jax.distributed."""
    import ray.train

    from dist_fm.training.session import train

    flags, own = parse_flags(options["flags"], own=("config",))
    result = train(load_config(own.get("config"), flags))
    ray.train.report({"test_auc": result["test"].get("auc"), "steps": result["steps"]})


if __name__ == "__main__":
    sys.exit(run_command(main))
