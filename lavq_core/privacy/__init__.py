"""Differential privacy per patient of one site: mechanisms, accounting, the site's ledger, and what may leave."""
