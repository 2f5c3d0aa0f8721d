"""Interventions in the real network: what is changed, what is read, what the graph predicts, which controls stand beside it."""
