"""`streamlit run app.py -- --run-dir runs/laptop`: ask a run's models side by side, and read how it went."""

import argparse

from helpers.use.app import show

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="streamlit run app.py --")
    parser.add_argument(
        "--run-dir", help="the run folder; else AI_DOCTOR_RUN_DIR, else the newest exported one in runs/"
    )
    parser.add_argument("--at-once", type=int, default=4, help="concurrent questions; others wait (default: 4)")
    show(**vars(parser.parse_args()))
