"""Models trained again on random halves of the patients, and what they are watched at."""
