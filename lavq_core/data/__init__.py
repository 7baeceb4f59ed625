"""ECG databases on disk: tables, labels, records, the packed cache, and ``Database``, which is all of it opened."""
