"""Tables of rows as other people keep them: JSON lines, CSV, TSV, Parquet, Hugging Face data sets; local or remote.

After: `prepare/` makes samples of the rows, `evaluate/` tasks. Every reader gives `Record` or `Bad` in the order of the
file, so that each row has a place in messages; what is wrong with a whole file is an `InputError` that names it.
"""

from jemb.tables.columns import group_rows, open_parquet, read_parquet
from jemb.tables.delimited import DELIMITERS, read_delimited, read_header, separator_hint
from jemb.tables.hub import HubName, hub_state, load_hub, read_hub
from jemb.tables.jsonl import Tally, read_json_lines
from jemb.tables.places import Found, base_name, each, is_url, is_web, join, list_folder, look, open_bytes, to_local
from jemb.tables.records import Bad, Record, excerpt
from jemb.tables.streams import Damaged, Lines, is_compressed, open_data, refuse_utf16
from jemb.tables.whole import TABLE_ENDINGS, kind_of, read_table

__all__ = [
    "DELIMITERS",
    "TABLE_ENDINGS",
    "Bad",
    "Damaged",
    "Found",
    "HubName",
    "Lines",
    "Record",
    "Tally",
    "base_name",
    "each",
    "excerpt",
    "group_rows",
    "hub_state",
    "is_compressed",
    "is_url",
    "is_web",
    "join",
    "kind_of",
    "list_folder",
    "load_hub",
    "look",
    "open_bytes",
    "open_data",
    "open_parquet",
    "read_delimited",
    "read_header",
    "read_hub",
    "read_json_lines",
    "read_parquet",
    "read_table",
    "refuse_utf16",
    "separator_hint",
    "to_local",
]
