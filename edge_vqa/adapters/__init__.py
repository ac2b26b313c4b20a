"""Other people's tools: each module is what one of them loads of us, and imports it."""
