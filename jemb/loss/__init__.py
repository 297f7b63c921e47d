"""The losses of arXiv 2307.11224 as functions of vectors and masks. They see candidates, not ranks."""

from jemb.loss.contrastive import info_nce, margin_loss
from jemb.loss.masks import hidden_candidates
from jemb.loss.objectives import Rows, pair_loss, triplet_loss

__all__ = ["Rows", "hidden_candidates", "info_nce", "margin_loss", "pair_loss", "triplet_loss"]
