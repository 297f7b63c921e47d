"""What there is to score: files of pairs, BEIR's folders, mteb."""
