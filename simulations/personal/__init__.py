"""The evaluation of personalised detectors: whom it may be measured on, its arms, and its figures."""
