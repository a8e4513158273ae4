"""Stage 05 without its notebook, for several GPUs: `accelerate launch evaluate.py --run-dir runs/full`.

`python -m helpers run --from 05` takes over its replies, and shows them.
"""

import sys

import typer

from helpers import InputError


def main(run_dir: str = "runs/default", profile: str = "auto") -> None:
    """Ask the base and the tuned model of the run folder, each process its share of the questions."""
    from helpers.evaluation.evaluate import evaluate
    from helpers.machine import is_main_process
    from helpers.processes import join
    from helpers.run_dir import open_run

    try:
        run = open_run(profile, run_dir)
        join()
        metrics = evaluate(run)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if is_main_process():
        base, tuned = (metrics["validation"][side]["nll"] for side in ("base", "tuned"))
        print(f"loss of unseen rows {base:.3f} -> {tuned:.3f}; `python -m helpers run --from 05` goes on")


if __name__ == "__main__":
    typer.run(main)
