"""The numbers of the funnel and the table at the end, against ones written by hand."""

from __future__ import annotations

from jemb.prepare import drop_reasons, funnel, summary_table
from jemb.shards import Manifest, ShardInfo, StageCount


def manifest(name, kept, *stages):
    shards = (ShardInfo("shard-000000.tar", kept, 1, "x"),) if kept else ()
    return Manifest(name, "pairs", shards, tuple(stages))


A = manifest(
    "alpha",
    1200,
    StageCount("read", 1495, {"unreadable": 5}),
    StageCount("exact", 1400, {"duplicate": 90, "empty": 5}),
    StageCount("language", 1200, {"language:de": 150, "language:unsure": 50}),
)
B = manifest("b", 0, StageCount("read", 10, {"unreadable": 0}), StageCount("exact", 0, {"empty": 10}))


def test_funnel_adds_up():
    assert funnel(A) == {"read": 1500, "unreadable": 5, "empty": 5, "duplicate": 90, "language": 200, "kept": 1200}
    assert funnel(B) == {"read": 10, "empty": 10, "kept": 0}


def test_reasons_come_in_the_order_of_the_stages_and_unknown_ones_last():
    counts = {
        "read": 9, "zebra": 1, "cross_encoder": 1, "near_duplicate": 1, "duplicate_elsewhere": 1, "apple:3": 1,
        "not_negatable": 1, "evaluation_text": 1, "no_negative": 1, "unreadable": 1, "overlap": 1, "kept": 2,
    }  # fmt: skip
    wanted = ["unreadable", "no_negative", "duplicate_elsewhere", "near_duplicate", "evaluation_text", "overlap"]
    assert drop_reasons([counts]) == [*wanted, "not_negatable", "cross_encoder", "apple:3", "zebra"]
    strange = manifest("c", 5, StageCount("read", 5, {"zebra": 2, "apple:3": 1, "apple:4": 1, "unreadable": 1}))
    assert list(funnel(strange).items()) == [("read", 10), ("unreadable", 1), ("apple", 2), ("zebra", 2), ("kept", 5)]


def test_table_by_hand():
    assert summary_table([A, B]) == "\n".join(
        [
            "data set   read  unreadable  empty  duplicate  language   kept  kept %",
            "alpha     1,500           5      5         90       200  1,200    80.0",
            "b            10           0     10          0         0      0     0.0",
            "total     1,510           5     15         90       200  1,200    79.5",
        ]
    )
    assert summary_table([B]).splitlines()[1:] == ["b           10     10     0     0.0"]
