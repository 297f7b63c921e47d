"""The encoder: token ids in, unit vectors out; made on the spot, or loaded from a standard folder.

Before: `data/collate.py` tokenises. After: `loss/` compares the vectors; `evaluate/` and `export/` encode.
"""

from jemb.model.cross_encoder import CrossEncoder as CrossEncoder
from jemb.model.cross_encoder import load_cross_encoder as load_cross_encoder
from jemb.model.encode import encode as encode
from jemb.model.encoder import Encoder as Encoder
from jemb.model.find import find_folder as find_folder
from jemb.model.load import load_encoder as load_encoder
from jemb.model.lora import add_lora as add_lora
from jemb.model.probe import probe as probe
from jemb.model.tiny import make_tiny as make_tiny
from jemb.model.together import encode_together as encode_together
from jemb.model.tokenize import Tokenize as Tokenize
from jemb.model.weights import load_start as load_start
from jemb.model.weights import load_weights as load_weights
from jemb.model.weights import save_start as save_start
