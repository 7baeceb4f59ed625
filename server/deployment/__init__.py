"""A federation of several hospitals: certificates, configurations, gateway, processes. See README.md here."""
