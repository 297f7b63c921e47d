"""The command line: see the package's docstring."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

NAMES = ["ablation", "sources", "negatives", "peer", "negation", "supervision", "auxiliary", "negation_cost"]
NAMES += ["adaptation", "with_mteb", "weigh", "whole"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("experiments", nargs="+", choices=[*NAMES, "tables", "pictures"])
    parser.add_argument("--data", type=Path, help="folder with pairs/, noise/, …; without it docstrings are used")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/experiments"), help="folder for everything that is made"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", nargs="+", default=[], metavar="OPTION=VALUE", help="options of all `jemb train`")
    arguments = parser.parse_args()
    if arguments.experiments == ["tables"]:
        from benchmarks.experiments.tables import print_tables

        print_tables(arguments.output)
        return
    if arguments.experiments == ["pictures"]:
        from benchmarks.experiments.pictures import draw

        here = Path(__file__).parent
        draw(here / "results.jsonl", here.parents[1] / "docs" / "pictures")
        return
    from benchmarks.experiments.lab import Lab
    from benchmarks.experiments.material import Material, docstrings
    from jemb.core.errors import InputError

    try:
        material = Material(arguments.data or docstrings(arguments.output / "docstrings"))
        lab = Lab(arguments.output, material, arguments.train)
        for seed in arguments.seeds:
            for name in arguments.experiments:
                importlib.import_module(f"benchmarks.experiments.{name}").run(lab, seed)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
