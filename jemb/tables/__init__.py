"""Tables of rows as other people keep them: JSON lines, CSV, TSV, Parquet, tars, Hugging Face data sets; near or far.

After: `prepare/` makes samples of the rows, `evaluate/` tasks. Every reader gives `Record` or `Bad` in the order of the
file, so that each row has a place in messages; what is wrong with a whole file is an `InputError` that names it. No
record takes more than `records.MAX_RECORD` bytes, whatever the file says.
"""
