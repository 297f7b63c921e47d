"""Options of `jemb train`."""

from __future__ import annotations

from dataclasses import asdict, field
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from jemb.config.parse import default_of, options
from jemb.config.types import Alone, MaxLength, Positive, PositiveReal, Role, Seed, Strings, TrustCode, Widths
from jemb.core.records import Kind
from jemb.registry import OBJECTIVES

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ExtraNegatives = Annotated[list[Literal["query_query", "positive_positive", "positive_negative"]], Alone]
Trackers = Annotated[list[Literal["tensorboard", "csv", "wandb", "mlflow"]], Alone]

WIDTHS = ("student_width", "teacher_width")
"""What an objective gets besides, if it takes it: of the vectors of the model, and of those of the teacher."""
LOSS_OPTIONS = (
    "temperature", "margin", "loss_weights", "extra_negatives", "mask_equal_texts", "mask_margin", "matryoshka_widths",
)  # fmt: skip
"""Options of a run that shape a loss: given to an objective that takes them."""


@options
class LossWeights:
    """How much each term of the loss counts; the defaults are the paper's. The formulas: jemb/loss/objectives.py."""

    query_to_positive: Weight = 1.0
    """Each query finds its positive among the positives (and hard negatives) of all rows."""
    positive_to_query: Weight = 1.0
    """Each positive finds its query among the queries of all rows."""
    joint: Weight = 0.0
    """Both in one softmax, as GTE (arXiv 2308.03281) has it; meant instead of the two."""
    margin: Weight = 1.0
    """Triplets: the query is nearer to its positive than to its own negatives, by `margin`."""
    positive_margin: Weight = 0.0
    """Triplets: the positive is nearer to its query than to the query's negatives, by `margin`. Not in the paper; it is
    what its HardNegation test measures."""
    spread_out: Weight = 0.0
    """Queries are far from each other, and so are positives (GOR, arXiv 1708.06320), so that quantised vectors and
    approximate search lose less."""


@options
class EvaluationConfig:
    """Evaluation while training, which chooses the step whose weights become the model. Does not change the training.

    Scores are those of `jemb evaluate`, and texts are encoded by all processes; the first one reads the tasks' files.
    """

    tasks: Strings = field(default_factory=list)
    """What to evaluate on, as for `jemb evaluate`: `sts:FILE`, `retrieval:BEIR_DIR`, `mteb:TASK`, …; none: no
    evaluation, and the model is that of the last step. Vectors are computed by all processes; what the first one does
    alone, search and scores, may take up to `timeout_minutes`."""
    every: Positive | None = None
    """Steps between evaluations, each of which comes with a checkpoint; null: `checkpoint_every`. There is also one
    before the first step, which takes no part in the choice, and one after the last."""
    metric: str | None = None
    """What chooses the best step, the higher the better: `TASK/METRIC`, with the task as in `tasks`
    (`sts:dev.jsonl/spearman`). null: the mean of the tasks' main metrics (spearman of sts, ndcg_at_10 of retrieval, map
    of reranking, hard_negation, mteb's main score), which the log and run.json name."""
    patience: Positive | None = None
    """Evaluations without a better value after which the run ends as finished; null: it goes on to `max_steps`."""

    def __post_init__(self) -> None:
        given = [name for name in ("every", "metric", "patience") if getattr(self, name) is not None]
        if given and not self.tasks:
            raise ValueError(f"evaluation.{given[0]} without evaluation.tasks: give what to evaluate on")


@options
class SidePrompts:
    """Texts put before the two sides of a sample of one data set."""

    query: str | None = None
    """Put before each query; null: what the others have."""
    document: str | None = None
    """Put before each positive and negative; null: what the others have."""


@options
class PromptsConfig:
    """Texts put before the two sides of a sample, in training, in evaluation and by whoever uses the model."""

    query: str | None = None
    """Put before each query, as `prompts.query='query: '`; null: what the model it starts from has as `query`, else
    nothing."""
    document: str | None = None
    """Put before each positive and negative; null: what the model it starts from has as `document`, else nothing."""

    datasets: dict[str, SidePrompts] = field(default_factory=dict)
    """Those of single data sets, over these: `prompts.datasets.NAME.query='Find the answer: '`. The saved model has
    them by the names `NAME-query` and `NAME-document`."""

    @property
    def given(self) -> dict[str, str]:
        """Those that are not null, by role, and by `NAME-ROLE` where they are a data set's own."""
        sides = {"": self, **{f"{name}-": side for name, side in self.datasets.items()}}
        found = {f"{at}{role}": getattr(side, role) for at, side in sides.items() for role in ("query", "document")}
        return {name: text for name, text in found.items() if text is not None}


Packing = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value),
]
"""In YAML `on` and `off` are true and false."""
PoolingMode = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@options
class LoraConfig:
    """Train small matrices beside the model's own, which stay as they are (LoRA, arXiv 2106.09685; extra `lora`)."""

    rank: Positive | None = None
    """Rank of the matrices, which turns LoRA on; null: all weights are trained. A finished run's model has them added
    to its own weights; `jemb export adapter=true` writes them alone."""
    alpha: Positive | None = None
    """Their product counts alpha / rank; null: twice the rank."""
    targets: Strings = field(default_factory=list)
    """Names of the layers that get them, as PEFT takes them (`q_proj`, `v_proj`); none: all linear layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of what goes into them."""

    def __post_init__(self) -> None:
        if self.rank is None and (self.alpha or self.targets or self.dropout):
            raise ValueError("model.lora has options without model.lora.rank: give the rank, as model.lora.rank=16")


@options
class ModelConfig:
    """The encoder to train. Choose a set of values by name (`model=tiny`, `model=t5_small`, …) or a path."""

    path: str | None = None
    """Folder or Hugging Face name of any encoder. Without one, a small BERT is made on the spot: random weights, and a
    WordPiece tokenizer trained on the shards."""
    pooling: PoolingMode | None = None
    """How token vectors become one. null: what the folder says, else the last token for decoders, mean for others."""
    attention: Literal["causal", "bidirectional"] | None = None
    """What a token sees: those before it, or all. null: what the folder says. Kept in the saved model; refused where
    the architecture cannot do it."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters instead of all weights."""
    packing: Annotated[Packing, Role.COURSE] = "auto"
    """Compute texts one after the other in a row, without padding, each attending to itself alone. `on` is checked at
    the start and refused where the architecture cannot do it. `auto` is off: what it brings on a GPU is unmeasured.
    Changes memory and time, not the result."""
    compile: Annotated[bool, Role.COURSE] = False
    """Run what `torch.compile` makes of the packed backbone: fewer, larger kernels, after a minute or more of compiling
    in the first steps. Rows are padded to one of eight lengths. Goes with `model.packing=on`, without dropout, with
    `strategy=single` or `ddp`, and with `micro_batch_tokens` or neither. What it brings on a GPU is unmeasured. Changes
    memory and time, not the result."""
    trust_remote_code: TrustCode = False
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = 0.0
    """Dropout probability while training; null keeps the model's own. At 0 (our choice; the paper names none) the
    losses do not depend on the number of processes."""
    vocab_size: Annotated[int, Field(ge=300)] = 8192
    """Made on the spot: word pieces in the vocabulary."""
    hidden_size: Positive = 128
    """Made on the spot: vector width D."""
    num_layers: Positive = 2
    """Made on the spot: transformer layers."""
    num_heads: Positive = 4
    """Made on the spot: attention heads; divides `hidden_size`."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"model.hidden_size must be a multiple of model.num_heads, got {self.hidden_size} and {self.num_heads}"
            )
        if self.compile and self.packing != "on":
            raise ValueError(f"model.compile=true goes with model.packing=on, got model.packing={self.packing}")
        if self.compile and (self.dropout != 0 or self.lora.dropout):
            name, value = ("dropout", self.dropout) if self.dropout != 0 else ("lora.dropout", self.lora.dropout)
            raise ValueError(
                f"model.compile=true goes without dropout, got model.{name}={'null' if value is None else value}"
            )


@options
class TrainConfig:
    """Train an encoder on shards: contrastively on pairs, or on triplets with hard negatives."""

    shards: Annotated[str, Role.MACHINE]
    """Output folder of `jemb prepare` (every data set in it), or the folder of one data set; or its URL (`s3://…`,
    `gs://…`, `https://…`): then shards are fetched whole into a cache that all processes of a machine share."""
    output: Annotated[str, Role.MACHINE]
    """Run folder. The same command on the same folder continues where it stopped. With a URL, the run works in a folder
    under `$JEMB_CACHE`, which is copied there after each checkpoint and fetched from there where it is missing."""
    objective: str = "pairs"
    """The loss: `pairs` or `triplets` (arXiv 2307.11224, section 3), of which the latter needs shards with hard
    negatives; of data with scores `scored` (CoSENT) or `scored_cosine`, with labels `labelled` (SupCon), with a
    teacher's scores `distill` (KL) or `distill_margin` (MarginMSE), with its vectors `teach`; `auto`: for each data set
    the one called like its kind; or one of your own, by its registered name or as PACKAGE.MODULE:NAME
    (jemb/loss/protocol.py)."""
    objectives: dict[str, str] = field(default_factory=dict)
    """Those of single data sets, `objectives.NAME=scored`, over `objective`."""
    objective_options: dict[str, Any] = field(default_factory=dict)
    """Options of an objective that are not in this list (`scale`, `teacher_temperature`, those of your own),
    `objective_options.NAME=…`; of several objectives each gets those it takes. Those of this list that it takes
    (temperature, margin, loss_weights, extra_negatives, mask_equal_texts, mask_margin, matryoshka_widths) it gets
    besides."""
    model: ModelConfig = field(default_factory=ModelConfig)
    init: str | None = None
    """Start from these weights: a run folder of `jemb train`, an exported or sentence-transformers folder, or a Hugging
    Face name. Replaces `model.path`."""
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    """Texts put before the sides."""
    strategy: Annotated[
        Literal["auto", "single", "ddp", "deepspeed_1", "deepspeed_2", "deepspeed_3", "fsdp"], Role.COURSE
    ] = "auto"
    """How processes share the work. `auto`: `single` for one process, `ddp` for more. `ddp`: each has the whole model.
    The others keep one share a process: `deepspeed_1` (ZeRO; needs the extra `deepspeed`) of AdamW's state,
    `deepspeed_2` of the gradients as well, `deepspeed_3` and `fsdp` of the weights as well. None changes the result."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Role.COURSE] = "auto"
    """Where to train; `auto`: CUDA where there is one. `mps`: the GPU of a Mac, for one process."""
    precision: Annotated[Literal["auto", "fp32", "tf32", "bf16", "fp16"], Role.COURSE] = "auto"
    """Arithmetic of the encoder; `auto`: bf16 where the GPU has it. The loss is always fp32. `tf32`: fp32 but that
    an NVIDIA GPU (A100 or newer) rounds factors of matrix products to 10 bits: nearer to fp32 than bf16, but slower.
    On a CPU bf16 pays where that has instructions for it (AMX). `fp16` is for GPUs without bf16 (T4, V100): the loss is
    scaled, and a step whose gradients are too large for fp16 is left out; not with `deepspeed_N` or `fsdp`."""
    global_batch_size: Annotated[int, Field(gt=1)] = 256
    """Samples in one optimiser step over all processes: what every query is contrasted with."""
    micro_batch_size: Annotated[Positive | None, Role.COURSE] = None
    """Texts a process encodes at once, all being computed again in backward (gradient caching): any global batch in the
    memory of this many texts. null: no such saving. Changes memory and time, not the result."""
    micro_batch_tokens: Annotated[Positive | None, Role.COURSE] = None
    """The same by tokens, padding included: as many texts of like length at once as have so many, at least one. Uses
    memory and time better than `micro_batch_size` where lengths differ; give one of the two."""
    max_steps: Annotated[Positive | None, Role.COURSE] = None
    """Optimiser steps; null: those of `max_epochs`."""
    max_epochs: Annotated[PositiveReal | None, Role.COURSE] = None
    """Passes over the samples, in place of `max_steps`: 0.5, 3, …; null: `max_steps`, or one pass."""
    learning_rate: PositiveReal = 2e-4
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warm-up; null: a tenth of `max_steps`."""
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """Learning rate after the warm-up: linear or as a cosine down to 0 at the last step; `wsd` (warm-up, stable,
    decay): constant, and linear down to 0 in the last tenth of the steps; or constant to the end."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """AdamW's decoupled weight decay; not applied to biases and norms."""
    gradient_clip: PositiveReal | None = 1.0
    """Largest L2 norm of the gradient; null: no clipping."""
    temperature: PositiveReal = 0.05
    """tau of the contrastive losses."""
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """epsilon of the triplet objective's margin terms."""
    loss_weights: LossWeights = field(default_factory=LossWeights)
    """How much each term of the loss counts."""
    extra_negatives: ExtraNegatives = field(default_factory=list)
    """What the softmax terms also contrast with: `query_query` (the other queries, in query_to_positive),
    `positive_positive` (the other positives, in positive_to_query), `positive_negative` (the hard negatives, in
    positive_to_query; triplets only). `joint` has them all. `objective=pairs_gte` is the loss of GTE."""
    matryoshka_widths: Widths = field(default_factory=list)
    """Also train the first so many numbers of each vector, as vectors of their own; at most the model's width, which is
    always in. The losses of all widths are added up (Matryoshka, arXiv 2205.13147)."""
    mask_equal_texts: bool = True
    """Do not count a text as a negative of a row whose query or positive it equals, on any process."""
    mask_margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """Nor one whose cosine exceeds that of the row's query and positive by more than this; 0 to 2 (Qwen3-Embedding has
    0.1). null: no such mask."""
    max_length: MaxLength | None = None
    """Tokens a text is cut at; null: the model's own limit (512 for one made on the spot, as in the paper)."""
    num_negatives: Positive = 1
    """Hard negatives of each sample in a step of the triplet objective; drawn anew each time from a sample's list. Of a
    sample with fewer, some come more than once; `negatives_short` in the log counts such samples."""
    num_positives: Positive = 1
    """Right answers of each sample in a step, where a data set has samples with several; drawn anew each time. With
    more than one the query stands in the loss once for each. Of a sample with fewer some come more than once
    (`positives_short` in the log)."""
    weights: dict[str, Weight] = field(default_factory=dict)
    """Quality s_i of a data set, `weights.NAME=2.0`; 1 where not given, 0 leaves it out. A batch comes from data set i
    with probability |D_i| s_i / sum_j |D_j| s_j."""
    small_datasets: Literal["own_size", "join", "leave_out", "refuse"] = "own_size"
    """What to do with data sets that have fewer samples than a global batch. `own_size`: their batches are as large as
    they are, rounded down to a size that the processes can share; the loss is a mean over its rows. `join`: small ones
    of one kind (pairs, triplets) become one, before that. Both leave out, with a warning, what has under 32 samples.
    `leave_out`: all of them. `refuse`: an error that names them. The batches do not depend on the processes' number."""
    seed: Seed = 0
    """Seed of the batch plan, the made-on-the-spot weights and the dropout."""
    checkpoint_every: Annotated[Positive, Role.UPKEEP] = 500
    """Steps between checkpoints. One is also written at the end, and on SIGINT, SIGTERM and SIGUSR1."""
    keep_checkpoints: Annotated[Positive, Role.UPKEEP] = 2
    """How many checkpoints to keep: the newest ones, and with `evaluation.tasks` also the best one."""
    evaluation: Annotated[EvaluationConfig, Role.COURSE] = field(default_factory=EvaluationConfig)
    """Evaluation while training."""
    log_samples: Annotated[bool, Role.UPKEEP] = False
    """Write `samples.jsonl`: the keys of every global batch."""
    trackers: Annotated[Trackers, Role.UPKEEP] = field(default_factory=lambda: ["tensorboard", "csv"])
    """Where the metrics of each step go besides `metrics.jsonl`: `tensorboard` and `csv` (`metrics.csv`) in the run
    folder; `wandb` and `mlflow` (extras of these names), which follow their own environment variables (WANDB_MODE,
    WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, …)."""
    shuffle_shards: Positive | None = None
    """null: any sample of a data set may come next. N: samples are shuffled within windows of N whole shards, whose
    order is drawn anew in each pass; so a data set needs only about 3 N shards at hand: for data behind a URL that are
    larger than the cache. Changes the batches."""
    cache_dir: Annotated[str | None, Role.MACHINE] = None
    """Where shards from a URL are kept, a folder on a local disk with locks; null: `shards` in `$JEMB_CACHE`, which is
    ~/.cache/jemb by default."""
    cache_gb: Annotated[PositiveReal | None, Role.MACHINE] = None
    """10^9 bytes of shards kept there at most, those of other runs included; their indexes, 1 or 2 % of that, come on
    top. null: 80 % of the disk that is free at the start, with what the cache has."""
    read_ahead: Annotated[int, Field(ge=0), Role.MACHINE] = 1000
    """Steps whose shards are fetched before they are needed, as far as `cache_gb` allows; 0: none."""
    tokens: Annotated[str | None, Role.MACHINE] = None
    """Output folder of `jemb tokenize` for these shards and this model: batches are made from the token ids there,
    several times as fast and to the bit the same; the shards are then read for keys alone. null: texts are tokenised as
    they are read."""
    workers: Annotated[int | None, Field(ge=0), Role.MACHINE] = None
    """Loader processes for each training process, which read and tokenise ahead; 0: none. null: one, and for a GPU as
    many as there are cores for, up to four."""
    timeout_minutes: Annotated[PositiveReal, Role.UPKEEP] = 30
    """How long a process waits for the others in a collective before it stops with an error."""
    dry_run: Annotated[bool, Role.UPKEEP] = False
    """Show batch arithmetic, the plan's shares, an estimate of the memory and the command, and start nothing."""

    def __post_init__(self) -> None:
        self._check_loss()
        if self.max_steps and self.max_epochs:
            raise ValueError(
                f"got max_steps={self.max_steps} and max_epochs={self.max_epochs:g}: set one of them to null"
            )
        if self.micro_batch_size and self.micro_batch_tokens:
            raise ValueError(
                f"got micro_batch_size={self.micro_batch_size} and micro_batch_tokens={self.micro_batch_tokens}: set "
                "one of them to null"
            )
        if self.model.compile and self.micro_batch_size:
            raise ValueError(
                f"model.compile=true goes with micro_batch_tokens, got micro_batch_size={self.micro_batch_size}: so "
                "many texts have any number of tokens, each of which would be compiled for itself"
            )
        if self.model.compile and self.strategy not in ("auto", "single", "ddp"):
            raise ValueError(f"model.compile=true goes with strategy=single or ddp, got strategy={self.strategy}")

    @property
    def several_objectives(self) -> bool:
        """Whether data sets may be learned by different ones."""
        return self.objective == "auto" or bool(self.objectives)

    @property
    def takes_negatives(self) -> bool:
        """Whether an objective takes hard negatives, `num_negatives` a row, as far as is known without the data."""
        return any(getattr(OBJECTIVES.find(name), "negatives", False) for name in self._possible())

    @property
    def loss_options(self) -> dict[str, Any]:
        """The options that an objective gets, if it takes them."""
        return {name: getattr(self, name) for name in LOSS_OPTIONS} | {"loss_weights": asdict(self.loss_weights)}

    @property
    def given_to_losses(self) -> list[str]:
        """Those of the options that an objective may take which are not at their default."""
        fields = type(self).__dataclass_fields__
        return [name for name in LOSS_OPTIONS if getattr(self, name) != default_of(fields[name])]

    def _possible(self) -> list[str]:
        """The objectives that data sets may be learned by."""
        of_all = get_args(Kind) if self.objective == "auto" else (self.objective,)
        return list(dict.fromkeys((*of_all, *self.objectives.values())))

    def _check_loss(self) -> None:
        taken: set[str] = set()
        for name in self._possible():
            needed = {} if self.several_objectives else self.objective_options
            taken |= OBJECTIVES.check(name, needed, {*LOSS_OPTIONS, *WIDTHS, *self.objective_options})
        own = self.objective in OBJECTIVES.own or self.several_objectives
        if own and (given := [name for name in self.objective_options if name in LOSS_OPTIONS]):
            raise ValueError(f"objective_options.{given[0]}: give {given[0]}=… in its place, an option of the run")
        strangers = [name for name in self.objective_options if name not in taken]
        if strangers and self.several_objectives:
            names = ", ".join(self._possible())
            raise ValueError(f"objective_options.{strangers[0]}: none of the objectives takes it ({names})")
        if unused := [name for name in self.given_to_losses if name not in taken]:
            raise ValueError(f"{unused[0]} is given, but objective={self.objective} does not take it")
        weights, pairs = self.loss_weights, self._possible() == ["pairs"]
        terms = [weights.query_to_positive, weights.positive_to_query, weights.joint]
        contrastive = "pairs" in self._possible() or "triplets" in self._possible()
        if contrastive and not any(terms if pairs else [*terms, weights.margin, weights.positive_margin]):
            raise ValueError(f"objective={self.objective}: all its loss_weights are 0; set one above 0")
        if pairs and "positive_negative" in self.extra_negatives:
            raise ValueError("extra_negatives: positive_negative needs hard negatives; use objective=triplets")
        if self.num_positives > 1 and not self.mask_equal_texts:
            raise ValueError(
                "num_positives above 1 with mask_equal_texts=false: a row's other positives are right, too"
            )
