"""`jemb evaluate`, also as `torchrun … -m jemb.app.evaluate`: all processes encode, the first does the rest."""

import sys
from dataclasses import replace

from jemb.config import EvaluateConfig
from jemb.launch import find_ranks

PATIENCE_MINUTES = 24 * 60
"""How long the other processes wait while the first searches and scores; that one has died is noticed at once."""


def run(config: EvaluateConfig) -> None:
    from jemb.evaluate import evaluate, table
    from jemb.mirror import local_copy, written_file

    if find_ranks().world_size == 1:
        with written_file(config.output) as output:
            models = [local_copy(model) for model in config.model]
            print(table(evaluate(replace(config, model=models, output=output))))
        return
    from jemb.errors import InputError
    from jemb.evaluate.distributed import evaluate_together
    from jemb.tables.places import is_url, to_local
    from jemb.train.peers import report_lost_peers
    from jemb.train.processes import joined_processes

    for option, place in [("output", config.output), *(("model", model) for model in config.model)]:
        if is_url(to_local(place)):
            raise InputError(f"{option}={place}: several processes share a folder; a URL is for one process alone")
    with joined_processes(config.device, PATIENCE_MINUTES), report_lost_peers(PATIENCE_MINUTES, "Start it again"):
        if (found := evaluate_together(config)) is not None:
            print(table(found))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("evaluate", sys.argv[1:]))
