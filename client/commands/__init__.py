"""Commands of a site: detect and twin."""
