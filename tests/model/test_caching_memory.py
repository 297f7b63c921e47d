"""What gradient caching is for: the memory of one group, however many there are."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, numpy, torch
from jemb.config import ModelConfig
from jemb.model import encode_together, make_tiny
from jemb.core.records import Tokens
config = ModelConfig(hidden_size=128, num_layers=2, num_heads=4, vocab_size=300)
encoder = make_tiny(["some words to learn"], config, seed=0, max_length=34).train()
peaks = []
for texts in (240, 7200):
    ids = torch.randint(5, encoder.backbone.config.vocab_size, (texts, 34))
    vectors, _ = encode_together(encoder, [Tokens(ids, numpy.full(texts, 34))], micro_batch_size=240)
    vectors[0].sum().backward()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way with freed memory is the subject")
def test_many_groups_take_the_memory_of_few() -> None:
    """30 groups against one, in MiB, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split()[-2:])
    assert many - few < 700  # 1,264 where freed memory stays with glibc, else 256 and noise
