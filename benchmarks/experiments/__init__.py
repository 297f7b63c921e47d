"""Experiments behind docs/experiments.md: what filters, sampling, triplets and gathered negatives are worth.

python -m benchmarks.experiments ablation sources negatives peer negation supervision weigh --data FOLDER --seeds 0 1 2
python -m benchmarks.experiments auxiliary --data FOLDER --seeds 0
python -m benchmarks.experiments tables
python -m benchmarks.experiments pictures

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
    supervision.py      a teacher's scores and vectors, people's grades
    auxiliary.py        which model, and which rule, says whether a pair belongs together
    negation_cost.py    negation for a model that is good already, and what keeps the rest as it was
    adaptation.py       a good model and pairs of one's own
    weigh.py            the weights that `jemb weigh` finds, against others
    pictures.py         the pictures of docs/experiments.md
    tables.py           means, intervals and paired differences as Markdown
"""
