"""`python infer.py "QUESTION" --run-dir runs/laptop`: short for `python -m helpers ask`."""

import sys

from helpers.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["ask"]
    main()
