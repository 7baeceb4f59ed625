"""The bundled sample: real 12-lead ECGs of PTB-XL in its own layout; README.md tells the rule and the licence."""
