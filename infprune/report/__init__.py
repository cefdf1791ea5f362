"""Results rendered: Rich, JSON, Markdown, terminal plot, PNG."""
