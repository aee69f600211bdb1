"""What a finished run has come to, in a few lines that a person can read."""

from typing import Any

from dist_fm.run_dir import RunDir


def describe_result(result: dict[str, Any], run: RunDir) -> str:
    """Model, best step, a line a metric, speed, where run and report are, and the commands that come next."""
    number = lambda value: "undefined" if value is None else f"{value:.5f}"
    how = f"{'stopped early after' if result['stopped_early'] else 'trained for'} {result['steps']:,} steps"
    metrics = {name: (value, result["test"].get(name)) for name, value in result["valid"].items()}
    width = max(len(name) for name in (*metrics, "metric"))
    valid = "valid = test" if result["valid_is_test"] else "valid"
    lines = [
        "",
        f"{result['model']} on {result['devices']}, {result['parameters']:,} parameters: {how}, "
        f"best at step {result['best_step']:,} (epoch {result['best_epoch']})",
        "",
        f"  {'metric':<{width}}  {valid:>12}  {'test':>12}",
        *(f"  {name:<{width}}  {number(valid):>12}  {number(test):>12}" for name, (valid, test) in metrics.items()),
        "",
        f"speed: {result['train_samples_per_s']:,} samples/s, {result['train_seconds']:,.1f} s of training",
        f"run: {run.path}",
        *([f"report: {run.report_file}"] if run.report_file.is_file() else []),
        "next:",
        f"  python -m dist_fm.evaluate --run={run.path}",
        f"  python -m dist_fm.predict --run={run.path} --input=FILE --output=scores.csv",
        *([f"  tensorboard --logdir={run.path}"] if run.event_files() else []),
    ]
    return "\n".join(lines)
