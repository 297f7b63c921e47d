"""Run folders and checkpoints that were damaged, cut by a power failure, or changed by hand: a run goes on exactly as
the undisturbed one would have, says what it put aside, or refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.trials.damage import DEEP, all_of, cut, fields, flipped, gone, put, without
from tests.trials.fault import Break, Fault, check, refused, repaired
from tests.trials.world import EXPORT, RESUME, TRAIN

NEW, OLD = "part/checkpoints/step-00000005", "part/checkpoints/step-00000004"
RECORD, METRICS = "part/run.json", "part/metrics.jsonl"
EXPORT_PART = EXPORT.replace("run=run", "run=part")


def same_weights(world: Path) -> None:
    """`part` has come to the end with the weights of `run`."""
    ours, theirs = (world / name / "model/model.safetensors" for name in ("part", "run"))
    assert ours.read_bytes() == theirs.read_bytes()


def as_undisturbed(world: Path) -> None:
    """And it has each step once in its log."""
    same_weights(world)
    steps = [json.loads(line)["step"] for line in (world / METRICS).read_text().splitlines()]
    assert steps == list(range(1, 9))


def goes_on(name: str, breaks: Break, *says: str) -> Fault:
    return repaired(name, RESUME, breaks, *says, changes=["part"], then=as_undisturbed)


def loses(name: str, breaks: Break) -> Fault:
    """Steps are gone from the log, which is said; the run goes on all the same."""
    return repaired(name, RESUME, breaks, "metrics.jsonl", changes=["part"], then=same_weights)


def stops(name: str, breaks: Break, *says: str) -> Fault:
    """Refused, and the run is left as it was."""
    return refused(name, RESUME, breaks, *says)


def lines(change) -> Break:
    """metrics.jsonl after `change` of its list of lines."""

    def edit(world: Path) -> None:
        path = world / METRICS
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return edit


def no_checkpoints(world: Path) -> None:
    shutil.rmtree(world / "part/checkpoints")


FAULTS = [
    goes_on("nothing", lambda world: None),
    goes_on("newest weights with a flipped bit", flipped(f"{NEW}/weights.safetensors"), "step-00000005"),
    goes_on("newest moments with a flipped bit", flipped(f"{NEW}/optimizer.safetensors"), "step-00000005"),
    goes_on("newest weights cut off", cut(f"{NEW}/weights.safetensors"), "step-00000005"),
    goes_on("newest weights missing", gone(f"{NEW}/weights.safetensors"), "step-00000005"),
    goes_on("newest position missing", gone(f"{NEW}/position.json"), "step-00000005"),
    goes_on("newest position not JSON", put(f"{NEW}/position.json", "{"), "step-00000005"),
    goes_on("newest position nested too deep", put(f"{NEW}/position.json", DEEP), "step-00000005"),
    goes_on("newest position a list", put(f"{NEW}/position.json", "[]"), "step-00000005"),
    goes_on("newest position without its step", without(f"{NEW}/position.json", "step")),
    goes_on("newest position of NULs", put(f"{NEW}/position.json", b"\0" * 400), "step-00000005"),
    goes_on("newest checkpoint empty", all_of(*(gone(f"{NEW}/{name}") for name in ("position.json", "weights.safetensors", "optimizer.safetensors"))), "step-00000005"),
    goes_on("newest checkpoint of another step", fields(f"{NEW}/position.json", step=7)),
    goes_on("newest position that names other files", fields(f"{NEW}/position.json", files={"../../../raw/pairs.jsonl": {"bytes": 1, "sha256": ""}}), "step-00000005"),
    goes_on("both checkpoints damaged", all_of(cut(f"{NEW}/weights.safetensors"), cut(f"{OLD}/weights.safetensors")), "step-00000005", "step-00000004"),
    goes_on("all checkpoints gone", no_checkpoints),
    goes_on("half a checkpoint under its temporary name", lambda w: shutil.copytree(w / NEW, w / "part/checkpoints/.step-00000006.1.tmp")),
    goes_on("log with a line cut off", lambda w: (w / METRICS).write_bytes((w / METRICS).read_bytes() + b'{"step": 6, "ti')),
    goes_on("log with steps behind the checkpoint", lines(lambda all: [*all, all[-1].replace(b'"step": 5', b'"step": 6')])),
    loses("log cut before the checkpoint", lines(lambda all: all[:3])),
    loses("log of NULs at its end", lines(lambda all: [*all[:-1], b"\0" * 300])),
    loses("log with a line not JSON", lines(lambda all: [*all[:2], b"nonsense\n", *all[3:]])),
    loses("log with a line not UTF-8", lines(lambda all: [*all[:2], b'{"step": 3, "x": "\xff"}\n', *all[3:]])),
    loses("log gone", gone(METRICS)),
    stops("record empty", put(RECORD, ""), "run.json"),
    stops("record not JSON", put(RECORD, "{"), "run.json"),
    stops("record a list", put(RECORD, "[]"), "run.json"),
    stops("record nested too deep", put(RECORD, DEEP), "run.json"),
    stops("record of NULs", put(RECORD, b"\0" * 900), "run.json"),
    stops("record not UTF-8", put(RECORD, b'{"id": "\xff"}'), "run.json"),
    goes_on("record without its plan", without(RECORD, "plan_fingerprint")),
    goes_on("record without its data sets", without(RECORD, "datasets")),
    goes_on("record without its starts", without(RECORD, "starts")),
    stops("record with a text for data sets", fields(RECORD, datasets="answers"), "run.json"),
    goes_on("record of another plan", fields(RECORD, plan_fingerprint="0" * 64)),
    stops("options not YAML", put("part/config.yaml", "a: [b"), "config.yaml"),
    stops("options empty", put("part/config.yaml", ""), "config.yaml"),
    stops("options a list", put("part/config.yaml", "- a\n"), "config.yaml"),
    stops("options that make objects", put("part/config.yaml", "!!python/object/apply:os.system ['touch ../harmed']\n"), "config.yaml"),
    stops("options of NULs", put("part/config.yaml", b"\0" * 300), "config.yaml"),
    stops("options gone", gone("part/config.yaml"), "config.yaml"),
    refused("another batch size", RESUME.replace("global_batch_size=8", "global_batch_size=16"), None, "global_batch_size"),
    refused("another learning rate", f"{RESUME} learning_rate=1", None, "learning_rate"),
    refused("another seed", f"{RESUME} seed=5", None, "seed"),
    refused("other shards", RESUME.replace("=shards", "=triplets"), None, "plan"),
    refused("first model gone", RESUME, lambda w: shutil.rmtree(w / "part/start"), "start", changes=["part"]),
    refused("first model damaged", RESUME, put("part/start/config.json", "{"), "config.json", changes=["part"]),
    refused("run folder a file", TRAIN.replace("=out", "=raw/pairs.jsonl"), None, "raw/pairs.jsonl"),
    refused("run folder of something else", TRAIN.replace("=out", "=raw"), None, "raw"),
    refused("run folder under a file", TRAIN.replace("=out", "=raw/pairs.jsonl/run"), None, "raw/pairs.jsonl"),
    refused("run folder the data", TRAIN.replace("=out", "=shards"), None, "shards"),
    refused("run folder a link to nowhere", TRAIN.replace("=out", "=link"), lambda w: (w / "link").symlink_to("gone/deep"), "link"),
    refused("checkpoints a file", RESUME, lambda w: (no_checkpoints(w), put("part/checkpoints", "x")(w)), "checkpoints", changes=["part"]),
    refused("export of a damaged checkpoint", EXPORT_PART, all_of(flipped(f"{NEW}/weights.safetensors"), flipped(f"{OLD}/weights.safetensors")), "step-0000000"),
    repaired("export of a damaged newest checkpoint", EXPORT_PART, flipped(f"{NEW}/weights.safetensors"), "step-00000005"),
    refused("export of a run without checkpoints", EXPORT_PART, no_checkpoints, "part"),
    refused("export of no run", EXPORT.replace("run=run", "run=raw"), None, "raw"),
    refused("export of a missing run", EXPORT.replace("run=run", "run=rnu"), None, "rnu"),
    refused("export with a damaged record", EXPORT, put("run/run.json", "{"), "run.json"),
    refused("export with a record nested too deep", EXPORT, put("run/run.json", DEEP), "run.json"),
    refused("export with damaged weights", EXPORT, cut("run/model/model.safetensors", 4000), "run/model"),
    refused("export onto something", EXPORT, lambda w: ((w / "out").mkdir(), (w / "out/mine").write_text("")), "out"),
    refused("inspect of a damaged record", "inspect run", put("run/run.json", "[]"), "run.json"),
    refused("inspect of a log of NULs", "inspect run", put("run/metrics.jsonl", b"\0" * 300 + b"\n"), "metrics.jsonl"),
    refused("start from a run without a model", f"{TRAIN} init=part", no_checkpoints, "part"),
    refused("start from nothing", f"{TRAIN} init=prat", None, "prat"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_run(fault: Fault, world: Path) -> None:
    check(fault, world)
