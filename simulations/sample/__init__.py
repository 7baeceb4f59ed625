"""The bundled sample: real 12-lead ECGs of PTB-XL in its own layout; README.md tells the rule and the licence."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SAMPLING_RATE = 100  # Hz, of every record in it
