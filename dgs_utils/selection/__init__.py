"""Which images to keep: measures of difficulty, histograms, targets, and the rules that choose."""
