"""What several tests share: tiny models, toy representations, naive references, files."""
