"""Experiments behind docs/experiments.md: what filters, sampling, triplets and gathered negatives are worth.

python -m benchmarks.experiments ablation sources negatives peer negation --data FOLDER --seeds 0 1 2
python -m benchmarks.experiments tables

Everything is done with jemb's own commands, called as the command line calls them (`lab.py`); every finished command
and every score is a line of JSON in the output folder, and the same command goes on where an earlier one ended. Without
--data the experiments run on the docstrings of the installed packages, as `jemb demo` does.

    material.py         the data: sets of pairs, noise, triplets, tasks
    noise.py            raw data of known dirt
    lab.py              prepare, train, score: each once
    ablation.py         four filter arms at equal steps; few clean pairs against many raw ones
    sources.py          single-source against mixed batches; what the data sets are drawn by
    negatives.py        gathered against local negatives (local_negatives.py) on 2 and 4 processes
    peer.py             against sentence-transformers' trainer (peer_trainer.py)
    negation.py         the triplet phase, with and without the p-against-n term
    tables.py           means, intervals and paired differences as Markdown
"""
