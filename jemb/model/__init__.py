"""The encoder: token ids in, unit vectors out; made on the spot, or loaded from a standard folder.

Before: `data/collate.py` tokenises. After: `loss/` compares the vectors; `evaluate/` and `export/` encode.
"""

from jemb.model.cross_encoder import CrossEncoder, load_cross_encoder
from jemb.model.encode import encode
from jemb.model.encoder import Encoder
from jemb.model.load import find_folder, load_encoder
from jemb.model.lora import add_lora
from jemb.model.probe import probe
from jemb.model.tiny import make_tiny
from jemb.model.together import encode_together
from jemb.model.tokenize import Tokenize
from jemb.model.weights import load_start, load_weights, read_weights, save_start

__all__ = [
    "CrossEncoder",
    "Encoder",
    "Tokenize",
    "add_lora",
    "encode",
    "encode_together",
    "find_folder",
    "load_cross_encoder",
    "load_encoder",
    "load_start",
    "load_weights",
    "make_tiny",
    "probe",
    "read_weights",
    "save_start",
]
