"""Results rendered: Rich, JSON, Markdown, HTML, terminal plot, SVG, PNG."""
