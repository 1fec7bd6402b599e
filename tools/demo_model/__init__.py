"""Training of the demo model: from a folder of books to a Hugging Face folder."""
