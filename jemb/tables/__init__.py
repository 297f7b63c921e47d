"""Tables of rows as other people keep them: JSON lines, CSV, TSV, Parquet, tars, Hugging Face data sets; near or far.

After: `prepare/` makes samples of the rows, `evaluate/` tasks. Every reader gives `Record` or `Bad` in the order of the
file, so that each row has a place in messages; what is wrong with a whole file is an `InputError` that names it. No
record takes more than `records.MAX_RECORD` bytes, whatever the file says.
"""

from jemb.tables.columns import group_rows
from jemb.tables.delimited import separator_hint
from jemb.tables.hub import HubName, hub_name, hub_state, is_saved, load_hub
from jemb.tables.jsonl import Tally
from jemb.tables.places import Found, base_name, each, is_url, is_web, join, list_folder, look, open_bytes, to_local
from jemb.tables.records import BOM, MAX_RECORD, Bad, NotText, Record, excerpt, text_of
from jemb.tables.streams import Damaged, Lines, open_data, packing, refuse_foreign
from jemb.tables.tars import Member, iter_members
from jemb.tables.whole import TABLE_ENDINGS, TAR_ENDINGS, kind_of, read_table

__all__ = [
    "BOM",
    "MAX_RECORD",
    "TABLE_ENDINGS",
    "TAR_ENDINGS",
    "Bad",
    "Damaged",
    "Found",
    "HubName",
    "Lines",
    "Member",
    "NotText",
    "Record",
    "Tally",
    "base_name",
    "each",
    "excerpt",
    "group_rows",
    "hub_name",
    "hub_state",
    "is_saved",
    "is_url",
    "is_web",
    "iter_members",
    "join",
    "kind_of",
    "list_folder",
    "load_hub",
    "look",
    "open_bytes",
    "open_data",
    "packing",
    "read_table",
    "refuse_foreign",
    "separator_hint",
    "text_of",
    "to_local",
]
