"""What a GPU tells about jemb: `check.py` runs the stages, `right.py` compares with a CPU, `fast.py` measures."""
