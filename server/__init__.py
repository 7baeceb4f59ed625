"""Flower ServerApp: asks the sites, checks and aggregates what comes back, keeps a checkpoint of every round."""
