"""What `prepare` shows: the table at its end, and `report.html`."""
