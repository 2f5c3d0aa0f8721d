"""Kills what a group's atlas runs on, at random moments of a real load, and looks for what was lost or left half-done."""
