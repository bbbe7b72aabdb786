"""Score pairs, rank items, fill the similarity matrix, and explain scores."""
