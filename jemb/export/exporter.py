"""From a run folder to a model folder, checked before it appears."""

from __future__ import annotations

import logging
from pathlib import Path

from jemb.config import ExportConfig
from jemb.errors import InputError
from jemb.export.card import write_card
from jemb.export.check import check_same_vectors
from jemb.files import whole_folder
from jemb.model import Encoder, load_encoder, read_weights
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)


def export(config: ExportConfig) -> Path:
    """Write the run's model to the folder `config.output`, checked by `check_same_vectors`; return the folder.

    A finished run gives its model, an unfinished one the weights of its last checkpoint. Raises `InputError`
    when there is neither or the output is not empty, `Failure` when the check fails; it leaves nothing there.
    """
    output, run = Path(config.output).expanduser().resolve(), RunFolder(Path(config.run).expanduser())
    if not is_run(run.path):
        raise InputError(f"run={run.path}: not a run folder of `jemb train` (no run.json and config.yaml in it)")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output={config.output}: there is something already; give a new or an empty folder")
    encoder, source = _trained_encoder(run)
    card = write_card(run, encoder, source)
    with whole_folder(output) as folder:
        encoder.save(folder, card)
        worst = check_same_vectors(encoder, folder)
    log.info("%s: %s; sentence-transformers and transformers give the same vectors (%.1e)", output, source, worst)
    return output


def _trained_encoder(run: RunFolder) -> tuple[Encoder, str]:
    """The encoder, and which weights it has in words."""
    record, checkpoints = run.read_record(), run.checkpoints()
    # A finished run that goes on to more steps still has its earlier model.
    if run.model.is_dir() and (record.get("status") == "finished" or not checkpoints):
        return load_encoder(str(run.model)), "the finished run's weights"
    if not checkpoints:
        raise InputError(
            f"run={run.path}: not finished and without a checkpoint; continue it with its `jemb train` command"
        )
    step, folder = checkpoints[-1]
    encoder = load_encoder(str(run.start))
    encoder.load_state_dict(read_weights(folder))
    return encoder, f"the weights of the checkpoint at step {step}"
