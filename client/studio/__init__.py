"""The twin studio: a local page on which one ECG is given a disease and looked at."""
