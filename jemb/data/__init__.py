"""The data path of training: which samples make a batch (`plan`), reading them, and the batch of token ids."""

from jemb.data.ahead import ReadAhead
from jemb.data.collate import Collate
from jemb.data.loader import loader_processes, make_loader
from jemb.data.plan import BatchPlan
from jemb.data.sampler import GlobalBatchSampler, StepDataset, for_sentence_transformers
from jemb.data.small import PlanSource
from jemb.data.verify import Verifier
from jemb.data.wanted import check_data

__all__ = [
    "BatchPlan",
    "Collate",
    "GlobalBatchSampler",
    "PlanSource",
    "ReadAhead",
    "StepDataset",
    "Verifier",
    "check_data",
    "for_sentence_transformers",
    "loader_processes",
    "make_loader",
]
