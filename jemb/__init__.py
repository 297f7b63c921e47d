"""jemb trains text-embedding models: raw pairs -> curated shards -> contrastive training -> exported model."""

__version__ = "0.1.0"
