"""Measure the ratios to peers (the BEAM, plain DSPy, other codecs) in one run: ``make bench``."""
