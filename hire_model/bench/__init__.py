"""`hire bench`: measure scoring, re-ranking, training and search, as ratios on this machine."""
