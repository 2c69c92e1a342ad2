"""Language models behind a chat endpoint, as engines."""
