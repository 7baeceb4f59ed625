"""ECG signals as arrays: lead algebra, R peaks and the quality gate.

One form inside: float32 (12, T) in mV, leads I II III aVR aVL aVF V1-V6, 10 s at 100 Hz (or 500 Hz).
"""
