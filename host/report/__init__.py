"""What a run shows its user: tables, plots, HTML."""
