"""Digital twins of one ECG that somebody hands in: what is asked for, who makes them, and what is made."""
