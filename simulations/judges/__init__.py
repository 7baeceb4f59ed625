"""Judges of digital twins that never trained them: who is asked for what, who scores, and what the scores say."""
