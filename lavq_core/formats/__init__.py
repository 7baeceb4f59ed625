"""ECG files of other people's software, in and out; one module a format, ``reading`` and ``writing`` choose it."""
