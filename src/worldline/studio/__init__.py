"""The studio: pages of worlds and logs in a browser."""
