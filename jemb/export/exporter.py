"""From a run, or a model folder that jemb wrote, to a model folder, checked before it appears."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants

from jemb.config import ExportConfig
from jemb.core.errors import Failure, InputError
from jemb.core.files import read_json, write_json, writing
from jemb.core.folders import check_free, whole_folder
from jemb.export.card import write_card
from jemb.export.check import check_same_vectors
from jemb.export.onnx_file import check_onnx_installed, check_onnx_possible, write_onnx
from jemb.lineage import TRAINING, Stage, public_name, stages_before
from jemb.model import Encoder, load_encoder, load_start, load_weights
from jemb.model.find import find_folder, first_line
from jemb.model.lora import ADAPTER
from jemb.model.weights import LORA
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)

FINISHED = "the finished run's weights"
"""The only ones that the run's scores are of."""


def export(config: ExportConfig) -> Path:
    """Write the run's model to the folder `config.output`, checked by `check_same_vectors`; return the folder.

    A finished run gives its model, an unfinished one the weights of its last checkpoint, a folder of `jemb merge` or
    `jemb export` the model in it. Raises `InputError` when there is none or the output is not empty, `Failure` when the
    check fails; it leaves nothing there. With `push_to_hub` the folder is uploaded once it is there; a `Failure` of
    that leaves it.
    """
    output, run = Path(config.output).expanduser().resolve(), RunFolder(Path(config.run).expanduser())
    _check(config, run, output)
    encoder, source = load_trained(config.run, trust_remote_code=config.trust_remote_code, adapter=config.adapter)
    scores = run.read_scores() if source == FINISHED else {}
    if (width := config.truncate_dim) is not None:
        if width != encoder.dim:  # then those that `jemb evaluate widths=[WIDTH]` gave, under their plain names
            of_width = {
                task: {name.removesuffix(f"@{width}"): metrics[name] for name in metrics if name.endswith(f"@{width}")}
                for task, metrics in scores.items()
            }
            scores = {task: metrics for task, metrics in of_width.items() if metrics}
        if width > encoder.full_dim:
            raise InputError(f"truncate_dim={width}: the vectors of {config.run} have {encoder.full_dim} numbers")
        encoder.truncate_dim = width
    for name, text in config.prompts.items():
        if encoder.prompts.get(name, text) != text:
            log.warning("prompts.%s: %r takes the place of %r, which the run has", name, text, encoder.prompts[name])
    encoder.prompts |= config.prompts
    name = run.path.resolve().name
    write_model(encoder, output, stages_before(config.run), config, name=name, source=source, scores=scores)
    if config.push_to_hub:
        log.info("uploaded: %s", push(output, config.push_to_hub, private=config.private))
    return output


def write_model(
    encoder: Encoder,
    output: Path,
    stages: Sequence[Stage],
    config: ExportConfig,
    *,
    name: str,
    source: str,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """The encoder as the folder `output`, whole or absent, with card and `training.json`. name, source, scores: for the
    card. Raises `Failure` where it does not give the encoder's vectors to those who load it."""
    if config.onnx:
        check_onnx_possible(encoder)
    card = write_card(name, encoder, stages, config, source=source, scores=scores or {})
    with writing(output), whole_folder(output) as folder:
        encoder.save(folder, card, adapter=config.adapter)
        write_json(folder / TRAINING, list(stages))
        if config.onnx:
            write_onnx(encoder, folder)
        found = check_same_vectors(encoder, folder, onnx=config.onnx, trust_remote_code=config.trust_remote_code)
    log.info(
        "%s: %s; largest difference of a number from the trained encoder's vectors: %s",
        output,
        source,
        ", ".join(f"{loader} {apart:.1e} (allowed {allowed:.0e})" for loader, (apart, allowed) in found.items()),
    )


def _check(config: ExportConfig, run: RunFolder, output: Path) -> None:
    """Raises `InputError` for what can be known before any work."""
    if not is_run(run.path) and not (run.path / TRAINING).is_file():
        raise InputError(
            f"run={run.path}: not a run folder of `jemb train` (no run.json and config.yaml in it) "
            "nor one of `jemb merge`"
        )
    if config.adapter and not is_run(run.path):
        raise InputError(f"adapter=true: {run.path} is a whole model; leave adapter out")
    check_free(output, f"output={config.output}")
    if config.onnx:
        check_onnx_installed()
    if config.push_to_hub:
        check_login()


def load_trained(place: str, *, trust_remote_code: bool = False, adapter: bool = False) -> tuple[Encoder, str]:
    """The encoder of a run or of any model folder or name, and which weights it has in words. adapter: with the
    adapters that the run trained, beside what they adapt."""
    run = RunFolder(Path(place).expanduser())
    if not is_run(run.path):
        return load_encoder(place, trust_remote_code=trust_remote_code), f"those of {public_name(place)}"
    finished = run.read_record().get("status") == "finished"
    # A finished run that goes on to more steps still has its earlier model.
    if run.model.is_dir() and (finished or not run.checkpoints()) and not adapter:
        return load_encoder(str(run.model), trust_remote_code=trust_remote_code), FINISHED
    if adapter and not (run.start / LORA).is_file():
        raise InputError(f"adapter=true: {run.path} trained all weights (no model.lora.rank); leave adapter out")
    if adapter:
        _check_base(read_json(run.start / LORA)["base"])
    found = run.newest_checkpoint()
    if found is None:
        raise InputError(
            f"{run.path}: not finished and without a checkpoint; continue it with its `jemb train` command"
        )
    folder, position = found
    encoder = load_start(run.start, trust_remote_code=trust_remote_code)
    load_weights(encoder, folder)
    return encoder, f"the weights of the checkpoint at step {position['step']}"


def _check_base(base: str) -> None:
    """Raises `InputError` where an adapter on that model would be of no use to those who load it."""
    if not base:
        raise InputError("adapter=true: it would belong to a model that was made on the spot; leave adapter out")
    if (find_folder(base) / ADAPTER).is_file():
        raise InputError(f"adapter=true: {base}, which it would belong to, has an adapter itself; leave adapter out")


def check_login() -> None:
    """Raises `InputError` where an upload would fail for want of a network or of a login; asks the Hub."""
    if constants.HF_HUB_OFFLINE:
        raise InputError("push_to_hub: HF_HUB_OFFLINE is set; take it away, or leave push_to_hub out")
    try:
        HfApi().whoami()
    except Exception as error:  # of one of several libraries; which ones changed with huggingface_hub 1.0
        raise InputError(
            f"push_to_hub: {constants.ENDPOINT} did not let you in ({first_line(error)}); run `hf auth login` or set "
            "HF_TOKEN, and check the network"
        ) from error


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload all of `folder` as one commit to the model repository `USER/NAME`; returns its address.

    Raises `Failure` where the Hub refuses or cannot be reached; the folder stays as it is.
    """
    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=private or None, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model exported by jemb")
    except Exception as error:
        raise Failure(
            f"push_to_hub={repository}: {first_line(error)}. The folder {folder} is whole; when that is mended: "
            f"hf upload {repository} {folder}"
        ) from error
    return str(address)
