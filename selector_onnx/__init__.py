"""Workstation side: traces -> Selector -> thresholds with a statistical guarantee."""
