"""All HTTP with the Hugging Face Hub: what an id means, fetching of one commit, pushing as one commit."""
